package CdmStop::Machine;

=head1 NAME

CdmStop::Machine - a Debian with the packages, and a cloud around it

=head1 SYNOPSIS

    my $m = CdmStop::Machine->new(root => $chroot, dir => $dir);
    $m->start;
    my ($exit, $said) = $m->run('nginx -t');
    $m->follow_readme;
    my $answer = $m->stop('jdbc2hive');       # {status, body}
    my @records = $m->records;

The machine is a chroot, or this one without C<root>. IAM and CDM have the names
of Huawei Cloud there: stand-ins on 127.0.0.2 and 127.0.0.3, port 443, behind
certificates of an authority that the machine trusts. What is read in the
README of the package can be typed as it stands, but for "listen 443", which
would be in their way.

It changes /etc/hosts, the certificates that the system trusts, and nginx's
configuration, and takes the port 443: for a machine that is thrown away.

=cut

use strict;
use warnings;

use JSON::PP ();
use Time::HiRes qw(time sleep);

use CdmStop::Cdm;
use CdmStop::Cert;
use CdmStop::Iam;
use CdmStop::Ledger;
use CdmStop::Process;
use CdmStop::TlsFront;

use constant {
    README => '/usr/share/doc/libnginx-mod-http-cdm-stop/README.Debian.gz',
    RECORDS => '/var/log/nginx/cdm_stop.jsonl',
    SITE => '/etc/nginx/sites-available/cdm-stop',
    PROJECT => '1551c7f6c808414d8e9f3c514a170f2e',
    CLUSTER => '6ec9a0a4-76be-4262-8697-e7af1fac7920',
};

my %CLOUD = (
    iam => ['127.0.0.2', 'iam.cn-north-4.myhuaweicloud.com'],
    cdm => ['127.0.0.3', 'cdm.cn-north-4.myhuaweicloud.com'],
);

sub new {
    my ($class, %opt) = @_;

    return bless { root => '', n => 0, %opt }, $class;
}

# Starts the cloud and makes it known on the machine; a certificate for the
# gateway, a token for a caller.

sub start {
    my ($self) = @_;

    my $dir = $self->{dir};
    my @names = map { "DNS:$_->[1]" } values %CLOUD;
    my $cert = CdmStop::Cert->new(
        dir => "$dir/certs", names => join ',', 'DNS:gateway', @names
    )->get('good');

    mkdir "$dir/standin", 0700;
    $self->{password} = CdmStop::Ledger->new->password;
    $self->{iam} = CdmStop::Iam->new(
        dir => "$dir/standin", host => $CLOUD{iam}[0], port => 8080,
        users => { acme => { 'cdm-gateway' => $self->{password} } });
    $self->{cdm} = CdmStop::Cdm->new(
        dir => "$dir/standin", host => $CLOUD{cdm}[0], port => 8080);

    for my $name (sort keys %CLOUD) {
        $self->{$name}->start;
        $self->{fronts}{$name} = CdmStop::TlsFront->new(
            dir => "$dir/$name", host => $CLOUD{$name}[0], port => 443,
            behind => 8080, cert => $cert->{cert}, key => $cert->{key}
        )->start;
    }

    $self->{token} = $self->{iam}->add_token(
        user => 'alice', domain => 'acme', project => PROJECT,
        roles => ['etl_operator']);

    my $hosts = $self->read('/etc/hosts');
    $self->write('/etc/hosts', $hosts . join '', "127.0.0.1 gateway\n",
        map { "@$_\n" } @CLOUD{sort keys %CLOUD});

    $self->write('/usr/local/share/ca-certificates/cloud.crt',
        slurp($cert->{ca}));
    $self->must('update-ca-certificates');

    $self->must('mkdir -p /etc/nginx/tls');
    $self->write('/etc/nginx/tls/gateway.crt', slurp($cert->{cert}));
    $self->write('/etc/nginx/tls/gateway.key', slurp($cert->{key}));

    return $self;
}

sub end {
    my ($self) = @_;

    $_->stop for values %{ $self->{fronts} }, @$self{qw(iam cdm)};

    return;
}

sub cdm { return $_[0]{cdm} }

sub iam { return $_[0]{iam} }

# Runs a command of the shell on the machine, sh or another one: exit status,
# output. The output is a file, since a service that is started keeps what it
# was started with; what a terminal would have written over is left out.

sub run {
    my ($self, $command, %opt) = @_;

    my $out = "$self->{dir}/run-" . ++$self->{n};
    my @chroot = $self->{root} eq '' ? () : ('chroot', $self->{root});
    my $pid = CdmStop::Process::run_in_background(
        [@chroot, $opt{shell} // 'sh', '-ec', $command],
        stdout => $out, stderr => $out, stdin => $opt{stdin},
        env => { PATH => '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL => 'C.UTF-8',
                 DEBIAN_FRONTEND => 'noninteractive' });
    my $status = CdmStop::Process::wait_for($pid, $opt{timeout} // 300);
    my $said = slurp($out) =~ s/\r(?=\n)//gr =~ s/^.*\r//gmr;

    if (!defined $status) {
        CdmStop::Process::end($pid);
        return (-1, "$said\n(ended after its time)");
    }

    return (CdmStop::Process::exit_code($status), $said);
}

# The same for what cannot fail.

sub must {
    my ($self, $command, %opt) = @_;

    my ($exit, $said) = $self->run($command, %opt);
    die "$command: exit status $exit\n$said" if $exit;

    return $said;
}

sub read {
    my ($self, $file) = @_;

    return slurp("$self->{root}$file");
}

sub write {
    my ($self, $file, $content) = @_;

    open my $out, '>:raw', "$self->{root}$file"
        or die "$self->{root}$file: $!\n";
    print {$out} $content;
    close $out or die "$self->{root}$file: $!\n";

    return;
}

# Does what the README of the package says under "A first site"; what nginx
# and the others printed.

sub follow_readme {
    my ($self) = @_;

    my ($steps) = $self->must('zcat ' . README)
        =~ /^A first site\n-+\n(.*?)^A caller /ms
        or die "no first site in the README\n";
    my $said = '';

    open my $in, '>', "$self->{dir}/typed" or die "typed: $!\n";
    print {$in} "$self->{password}\n";
    close $in or die "typed: $!\n";

    for my $block ($steps =~ /^(?: {8}.*\n|\n(?= {8}))+/mg) {
        my $text = $block =~ s/^ {8}//gmr;

        if ($text =~ /\A\n*cdm_stop_zone /) {
            $text =~ s/listen 443 /listen 127.0.0.1:443 /
                or die "the site does not listen\n";
            $self->write(SITE, $text =~ s/\A\n+//r);
            next;
        }

        $said .= $self->must($text, shell => 'bash',
            stdin => "$self->{dir}/typed");
    }

    return $said;
}

# A stop, sent with curl from here: status and body, 000 if there is none.

sub stop {
    my ($self, $job, %opt) = @_;

    my $token = $opt{token} // $self->{token};
    my $path = join '/', '/v1.1', PROJECT, 'clusters', CLUSTER, 'cdm/job',
        $job, 'stop';
    my (undef, $said) = CdmStop::Process::capture(
        qw(curl -sS -X PUT --max-time 30 --resolve gateway:443:127.0.0.1),
        '--cacert', "$self->{dir}/certs/ca.crt", '-H', "X-Auth-Token: $token",
        '-w', '\n%{http_code}', "https://gateway$path");
    my ($body, $status) = $said =~ /\A(.*)\n(\d+)\z/s;

    return { status => $status // '000', body => $body // $said };
}

# The records, once there are that many; the outcome may come a little after
# the answer.

sub records {
    my ($self, $n) = @_;

    my $deadline = time + 30;

    while (1) {
        my @lines = grep { /\n\z/ } split /^/, $self->read(RECORDS);
        return map { JSON::PP->new->utf8->decode($_) } @lines
            if @lines >= ($n // 0);
        die "not $n records:\n@lines" if time > $deadline;
        sleep 0.1;
    }
}

# Of the running nginx: the number of its master.

sub master {
    my ($self) = @_;

    my $file = "$self->{root}/run/nginx.pid";
    my ($pid) = -e $file ? slurp($file) =~ /(\d+)/ : ();

    return $pid && -d "/proc/$pid" ? $pid : undef;
}

# Which module the running nginx has: "installed", "replaced" (its file is no
# longer there), "" for none.

sub loaded {
    my ($self) = @_;

    my $pid = $self->master or return '';
    my ($line) = slurp("/proc/$pid/maps") =~ /^(.*cdm_stop_module\.so.*)$/m
        or return '';

    return $line =~ /deleted/ ? 'replaced' : 'installed';
}

sub wait_for {
    my ($self, $code, %opt) = @_;

    my $deadline = time + ($opt{timeout} // 60);

    until ($code->()) {
        return 0 if time > $deadline;
        sleep 0.1;
    }

    return 1;
}

sub slurp {
    my ($file) = @_;

    open my $in, '<:raw', $file or die "$file: $!\n";
    local $/;

    return scalar(<$in>) // '';
}

1;
