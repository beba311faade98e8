package CdmStop::Keystone;

=head1 NAME

CdmStop::Keystone - a real OpenStack Keystone of the test's own

=head1 SYNOPSIS

    my $missing = CdmStop::Keystone->missing;     # packages, or ''

    my $keystone = CdmStop::Keystone->new(dir => $dir, port => $port);
    $keystone->start;

    my $domain  = $keystone->create(domain => { name => 'acme' });
    my $project = $keystone->create(project => { name => 'etl',
                                                 domain_id => $domain });
    my $user    = $keystone->create(user => { name => 'cdm-gateway', ... });
    $keystone->grant($user, $project, 'member');

    my $r = $keystone->validate($token);          # status, json
    $keystone->stop;

Everything is in C<dir>: configuration, keys, an sqlite database and the logs.
uwsgi serves it on 127.0.0.1 and ends with this process, however that ends.
Nothing of the machine's own Keystone is read or written.

=cut

use strict;
use warnings;

use HTTP::Tiny;
use JSON::PP ();
use Time::HiRes qw(time);

use CdmStop::Process;

my %NEEDED = (
    '/usr/bin/keystone-manage' => 'python3-keystone',
    '/usr/bin/keystone-wsgi-public' => 'python3-keystone',
    '/usr/lib/uwsgi/plugins/python3_plugin.so' => 'uwsgi-plugin-python3',
    '/usr/bin/setpriv' => 'util-linux',
);


# The Debian packages that are not installed, as one string.

sub missing {
    my %missing = map { $NEEDED{$_} => 1 } grep { !-e } keys %NEEDED;

    return join ' ', sort keys %missing;
}


sub new {
    my ($class, %args) = @_;

    return bless {
        dir => $args{dir},
        port => $args{port},
        timeout => $args{timeout} // 120,
        admin => join('', map { sprintf '%02x', rand 256 } 1 .. 16),
        http => HTTP::Tiny->new(timeout => 20, keep_alive => 0),
        pid => undef,
        token => undef,
    }, $class;
}


sub url { return "http://127.0.0.1:$_[0]{port}" }


sub start {
    my ($self) = @_;

    $self->write_config;
    $self->manage('db_sync');
    $self->manage('fernet_setup', '--keystone-user', scalar getpwuid($>),
        '--keystone-group', scalar getgrgid($) + 0));
    $self->manage('bootstrap', '--bootstrap-password', $self->{admin});

    # eventlet may crash at exit: of no interest, and a core holds keys
    # uwsgi closes each connection, at times well behind its answer: a client
    # that is not told would ask again meanwhile, and be reset
    my $log = "$self->{dir}/uwsgi.log";

    $self->{pid} = CdmStop::Process::run_in_background(
        ['sh', '-c', 'ulimit -c 0; exec "$@"', 'sh',
            'setpriv', '--pdeathsig', 'KILL',
            'uwsgi', '--plugins', 'python3', '--master', '--lazy-apps',
            '--no-orphans', '--die-on-term', '--enable-threads',
            '--processes', 1, '--buffer-size', 65535,
            '--chdir', $self->{dir},
            '--http-socket', "127.0.0.1:$self->{port}",
            '--add-header', 'Connection: close',
            '--wsgi-file', '/usr/bin/keystone-wsgi-public',
            '--pyargv', "--config-file=$self->{dir}/keystone.conf"],
        stdout => $log, stderr => $log, env => $self->environment);

    $self->wait_until_ready;
    $self->login;

    return $self;
}


sub write_config {
    my ($self) = @_;
    my $dir = $self->{dir};

    mkdir $_, 0700 for $dir, "$dir/fernet", "$dir/policy.d";

    open my $out, '>', "$dir/keystone.conf" or die "$dir: $!\n";
    print $out <<"END";
[DEFAULT]
log_dir = $dir
log_file = keystone.log

[database]
connection = sqlite:///$dir/keystone.db

[token]
provider = fernet

[fernet_tokens]
key_repository = $dir/fernet

[oslo_policy]
policy_dirs = $dir/policy.d

[identity]
password_hash_rounds = 4
END
    close $out or die "$dir: $!\n";
}


sub environment {
    my ($self) = @_;

    return { HOME => $self->{dir}, LC_ALL => 'C.UTF-8',
        OS_KEYSTONE_CONFIG_DIR => $self->{dir} };
}


sub manage {
    my ($self, @command) = @_;

    my ($status, $output) = CdmStop::Process::capture(
        '/usr/bin/keystone-manage', '--config-file',
        "$self->{dir}/keystone.conf", @command,
        { timeout => $self->{timeout}, env => $self->environment });

    die "keystone-manage $command[0] failed:\n$output"
        . $self->tail('keystone.log') if $status != 0;
}


sub wait_until_ready {
    my ($self) = @_;
    my $end = time + $self->{timeout};

    while (time < $end) {
        return if $self->{http}->get($self->url . '/v3')->{success};

        last if defined CdmStop::Process::wait_for($self->{pid}, 0.2);
    }

    die "Keystone does not answer:\n" . $self->tail('uwsgi.log');
}


sub tail {
    my ($self, $file) = @_;

    open my $in, '<', "$self->{dir}/$file" or return '';
    my @lines = <$in>;
    close $in;

    return join '', @lines > 20 ? @lines[-20 .. -1] : @lines;
}


# One call of its API: status, headers, and json where the body is some.

sub call {
    my ($self, $method, $path, $body, %headers) = @_;

    $headers{'X-Auth-Token'} //= $self->{token} if defined $self->{token};

    my $r = $self->{http}->request($method, $self->url . $path, {
        headers => { 'Content-Type' => 'application/json', %headers },
        defined $body ? (content => JSON::PP::encode_json($body)) : (),
    });

    $r->{json} = eval { JSON::PP::decode_json($r->{content}) };

    return $r;
}


sub login {
    my ($self) = @_;

    my $r = $self->call(POST => '/v3/auth/tokens', { auth => {
        identity => { methods => ['password'], password => { user => {
            name => 'admin', password => $self->{admin},
            domain => { name => 'Default' } } } },
        scope => { project => { name => 'admin',
            domain => { name => 'Default' } } } } });

    die "Keystone refuses its own administrator: $r->{status}\n"
        if $r->{status} != 201;

    $self->{token} = $r->{headers}{'x-subject-token'};
}


# Creates a domain, project, user or role and returns its id.

sub create {
    my ($self, $kind, $facts) = @_;
    my $r = $self->call(POST => "/v3/${kind}s", { $kind => $facts });

    die "Keystone creates no $kind: $r->{status} $r->{content}\n"
        if $r->{status} != 201;

    return $r->{json}{$kind}{id};
}


sub grant {
    my ($self, $user, $project, $role) = @_;

    my $roles = $self->call(GET => "/v3/roles?name=$role");
    my $id = $roles->{json}{roles}[0]{id}
        // die "Keystone has no role $role: $roles->{status} "
            . "$roles->{content}\n";

    my $r = $self->call(PUT => "/v3/projects/$project/users/$user/roles/$id");

    die "Keystone grants no role: $r->{status} $r->{content}\n"
        if $r->{status} != 204;
}


# What Keystone itself says of a token.

sub validate {
    my ($self, $token) = @_;

    return $self->call(GET => '/v3/auth/tokens', undef,
        'X-Subject-Token' => $token);
}


sub stop {
    my ($self) = @_;

    CdmStop::Process::end(delete $self->{pid}) if defined $self->{pid};
}


sub DESTROY {
    my ($self) = @_;
    local ($?, $!, $@);

    $self->stop;
}

1;
