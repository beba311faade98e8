package CdmStop::Test;

=head1 NAME

CdmStop::Test - one nginx under test, its stand-ins, client and checks

=head1 SYNOPSIS

    use CdmStop::Test;                     # and all of Test::More

    my $t = CdmStop::Test->new;
    my ($iam, $cdm) = ($t->iam, $t->cdm);

    $t->config(<<'EOC');
    %%GLOBALS%%
    worker_processes 2;
    events { }
    http {
        %%HTTP_GLOBALS%%
        server { listen 127.0.0.1:%%PORT%%; ... }
    }
    EOC

    $t->start;
    is($t->put_stop(job => 'x')->{status}, 200, 'T01 canonical target');
    $t->done;

What the parts offer: L<CdmStop::Test::Nginx> (start, reload, stop, nginx_t),
L<CdmStop::Test::Traffic> (requests), L<CdmStop::Test::Records> (JSON lines),
L<CdmStop::Test::Checks> (what C<done> asserts).

Environment: TEST_NGINX_BINARY, TEST_NGINX_MODULE (empty: static in the
binary), TEST_NGINX_LEAVE (keep the directory), TEST_NGINX_VERBOSE,
TEST_NGINX_TIMEOUT (seconds, the bound of all waiting).

=cut

use strict;
use warnings;

use Cwd ();
use File::Path ();
use File::Spec;
use File::Temp ();
use Test::More;
use Time::HiRes qw(time sleep);

use parent qw(
    CdmStop::Test::Nginx CdmStop::Test::Traffic CdmStop::Test::Records
    CdmStop::Test::Checks
);

use CdmStop::Cert;
use CdmStop::Cdm;
use CdmStop::Iam;
use CdmStop::Ledger;
use CdmStop::Ports;
use CdmStop::Standin;
use CdmStop::TlsFront;

my $ROOT = Cwd::abs_path(
    File::Spec->catdir((File::Spec->splitpath(__FILE__))[1], ('..') x 3));

sub import {
    my ($class) = @_;

    my $caller = caller;
    Test::More->export_to_level(1, $class);
    binmode Test::More->builder->$_, ':encoding(UTF-8)'
        for qw(output failure_output todo_output);

    return;
}

# module => 0: no load_module; module => FILE: another one; log => LEVEL of the
# error log (default: debug where the binary has it, else info); timeout.

sub new {
    my ($class, %opt) = @_;

    my $dir = File::Temp::tempdir('cdm-stop-XXXXXXXX', TMPDIR => 1);
    chmod 0755, $dir;

    my $self = bless {
        dir => $dir, owner => $$, ports => {}, standins => [], answers => [],
        expected => [], allowed => [], secret_files => {}, killed => {},
        ledger => CdmStop::Ledger->new, %opt
    }, $class;

    $self->{binary} //= $ENV{TEST_NGINX_BINARY} || '/usr/sbin/nginx';
    $self->look_at_binary;
    $self->{timeout} //= $ENV{TEST_NGINX_TIMEOUT}
        || ($self->{valgrind} ? 180 : $self->{asan} ? 90 : 30);

    $self->make_directories;
    diag("directory $dir") if $ENV{TEST_NGINX_VERBOSE};

    return $self;
}

# Only what is written by workers, who may be nobody, is writable for all.

sub make_directories {
    my ($self) = @_;

    for my $name (qw(secrets standin certs)) {
        mkdir "$self->{dir}/$name", 0700;
    }

    # files in there are opened by workers, those of the TLS front as well
    chmod 0755, "$self->{dir}/certs";
    chmod 0711, "$self->{dir}/standin";
    mkdir "$self->{dir}/sanitizer";
    chmod 01777, "$self->{dir}/sanitizer";

    return;
}

sub root { return $ROOT }

sub dir { return $_[0]{dir} }

sub ledger { return $_[0]{ledger} }

# The port of a name: '' is %%PORT%%, 'IAM' %%IAM_PORT%%, 'CDM' %%CDM_PORT%%,
# any other x %%PORT_x%%.

sub port {
    my ($self, $name) = @_;

    return $self->{ports}{$name // ''} //= CdmStop::Ports::take();
}

sub write {
    my ($self, $file, $content, $mode) = @_;

    my $path = $self->path($file);
    my $dir = (File::Spec->splitpath($path))[1];
    File::Path::make_path($dir);

    # never readable for others in between
    unlink $path;
    my $old = umask(defined $mode ? 0777 & ~$mode : 022);
    open my $fh, '>:raw', $path or die "$path: $!\n";
    umask $old;
    print {$fh} $content;
    close $fh or die "$path: $!\n";
    chmod $mode, $path if defined $mode;

    return $path;
}

sub path {
    my ($self, $file) = @_;

    return $file =~ m{\A/} ? $file : "$self->{dir}/$file";
}

sub read {
    my ($self, $file) = @_;

    my $path = $self->path($file);
    open my $fh, '<:raw', $path or die "$path: $!\n";
    local $/;

    return scalar <$fh>;
}

# Writes a secret that the search for secrets must know, into a file that it
# leaves out; mode 0600. A final line feed is content, not secret.

sub write_secret {
    my ($self, $file, $content, $mode) = @_;

    (my $secret = $content) =~ s/\n\z//;
    $self->{ledger}->add('secret file', $secret);

    my $path = $self->write($file, $content, $mode // 0600);
    $self->{secret_files}{$path} = 1;

    return $path;
}

# Replaces the %%words%% of a configuration.

sub expand {
    my ($self, $text, %opt) = @_;

    my %word = (
        TESTDIR => sub { $self->{dir} }, PORT => sub { $self->port },
        IAM_PORT => sub { $self->port('IAM') },
        CDM_PORT => sub { $self->port('CDM') },
        GLOBALS => sub { $self->globals(%opt) },
        HTTP_GLOBALS => sub { $self->http_globals(%opt) },
    );

    # GLOBALS first, for they have words themselves
    for (1 .. 2) {
        $text =~ s/%%(\w+)%%/
            $word{$1} ? $word{$1}->()
            : $1 =~ m{\APORT_(\w+)\z} ? $self->port($1)
            : die "unknown word %%$1%%\n"/gex;
    }

    $self->note_record_targets($text);

    return $text;
}

sub config {
    my ($self, $text) = @_;

    $self->{conf} = $self->write('nginx.conf', $self->expand($text));
    return $self;
}

# The stand-in for IAM: knows user cdm-gateway of domain acme, whose password
# is in secrets/password. Options as of CdmStop::Iam, and port => NAME, name,
# tls => {...} (see CdmStop::TlsFront).

sub iam {
    my ($self, %opt) = @_;

    my $users = $opt{users};

    if (!$users) {
        $self->{password} //= $self->{ledger}->password;
        $self->write_secret('secrets/password', $self->{password})
            unless -e $self->path('secrets/password');
        $users = { acme => { 'cdm-gateway' => $self->{password} } };
    }

    return $self->standin('CdmStop::Iam', port => 'IAM', name => 'iam', %opt,
                          users => $users);
}

sub cdm {
    my ($self, %opt) = @_;

    return $self->standin('CdmStop::Cdm', port => 'CDM', name => 'cdm', %opt);
}

# Any stand-in, on the port of a name.

sub standin {
    my ($self, $class, %opt) = @_;

    my $tls = delete $opt{tls};
    my $name = delete $opt{port};
    my $port = $self->port($name . ($tls ? '_behind_tls' : ''));

    my $standin = $class->new(%opt, port => $port,
                              dir => "$self->{dir}/standin");
    $standin->start;
    push @{$self->{standins}}, $standin;

    if ($tls) {
        my $certs = ref $tls ? $tls : $self->cert($tls);
        $standin->{front} = CdmStop::TlsFront->new(
            %$certs, port => $self->port($name), behind => $port,
            timeout => $self->{timeout},
            dir => "$self->{dir}/standin/$opt{name}-tls");
        $standin->{front}->start;
    }

    return $standin;
}

# Certificates: good, wrong_name, unknown_ca, expired; each {cert, key, ca}.

sub cert {
    my ($self, $kind) = @_;

    $self->{certs} //= CdmStop::Cert->new(dir => "$self->{dir}/certs");
    return $self->{certs}->get($kind // 'good');
}

# The certificate of a client, {cert, key, ca}: its name and its subject.

sub client_cert {
    my ($self, @of) = @_;

    $self->cert;
    return $self->{certs}->client(@of);
}

# Polls until the code returns something true, which is returned; dies with
# what was awaited if that takes too long.

sub wait_for {
    my ($self, $code, %opt) = @_;

    my $deadline = time + ($opt{timeout} // $self->{timeout});
    my $pause = 0.005;

    for (;;) {
        my $value = $code->();
        return $value if $value;

        if (time > $deadline) {
            return if $opt{quiet};
            die 'did not come in time: ' . ($opt{what} // 'a condition') . "\n";
        }

        sleep $pause;
        $pause *= 1.3 if $pause < 0.1;
    }
}

# Stops everything, asserts what must be true after every test, and ends it.

sub done {
    my ($self) = @_;

    my $status = $self->stop;
    $self->stop_standins;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    $self->check_all($status);
    done_testing();
    $self->{passed} = Test::More->builder->is_passing;

    return;
}

sub stop_standins {
    my ($self) = @_;

    for my $s (@{$self->{standins}}) {
        # shorter ones are found everywhere
        $self->{ledger}->add("$s->{name} token", $_)
            for grep { length >= 16 } $s->secrets;
        $s->{front}->stop if $s->{front};
        $s->stop;
    }

    return;
}

sub DESTROY {
    my ($self) = @_;

    return if $self->{owner} != $$;

    # a test that died keeps its directory as one that failed
    my $died = ${^GLOBAL_PHASE} ne 'RUN' && $?;

    local ($?, $!, $@);
    CdmStop::Process::end($self->{pid}) if $self->{pid};

    # a variable that functions of the test use lives as long as perl itself,
    # and then there is nobody left to ask
    my $passed = $self->{passed}
        // eval { Test::More->builder->is_passing } // 0;

    if (!$ENV{TEST_NGINX_LEAVE} && !$died && $passed) {
        File::Path::remove_tree($self->{dir}, { safe => 0 });

    } elsif (!$self->{told}++) {
        print {*STDERR} "# kept: $self->{dir}\n";
    }

    return;
}

1;
