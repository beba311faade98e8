package CdmStop::TlsFront;

=head1 NAME

CdmStop::TlsFront - TLS in front of a stand-in, by a plain nginx

=head1 SYNOPSIS

    my $front = CdmStop::TlsFront->new(
        dir => $dir, port => $tls_port, behind => $plain_port,
        cert => $cert, key => $key);
    $front->start;
    my @handshakes = $front->handshakes(1);   # {sni, protocol, ...}

Requests that came through TLS are passed on as they are to the stand-in, whose
counters are the proof of what got through: a client that refuses the
certificate leaves no byte there. Answers with a broken form do not pass the
front: they are for stand-ins without it. C<http2 =E<gt> 1> offers h2 by ALPN;
C<early_data =E<gt> 1> takes TLS 1.3 early data; C<client_ca> asks for a
certificate of the client.

=cut

use strict;
use warnings;

use JSON::PP ();
use Time::HiRes qw(time sleep);

use CdmStop::Process;

sub new {
    my ($class, %opt) = @_;

    return bless { host => '127.0.0.1', timeout => 30, %opt }, $class;
}

sub binary {
    my ($self) = @_;

    return $self->{binary} // $ENV{TEST_TLS_FRONT_BINARY} // '/usr/sbin/nginx';
}

sub start {
    my ($self) = @_;

    my $dir = $self->{dir};
    mkdir $dir;

    # temporary files of workers who are not root
    chmod 0755, $dir;
    $self->write_configuration;

    $self->{pid} = CdmStop::Process::run_in_background(
        [$self->binary, '-p', "$dir/", '-e', "$dir/startup.log",
         '-c', "$dir/nginx.conf"], stderr => "$dir/stderr.log");

    my $deadline = time + $self->{timeout};

    until (-s "$dir/nginx.pid") {
        die "TLS front did not start:\n" . slurp("$dir/startup.log")
            . slurp("$dir/stderr.log")
            if time > $deadline
            || defined CdmStop::Process::wait_for($self->{pid}, 0);
        sleep 0.01;
    }

    return $self;
}

sub write_configuration {
    my ($self) = @_;

    my ($dir, $host) = @$self{qw(dir host)};
    my $more = $self->{early_data} ? 'ssl_early_data on;' : '';
    my $listen = 'ssl' . ($self->{http2} ? ' http2' : '');

    $more .= "ssl_client_certificate $self->{client_ca}; ssl_verify_client on;"
        if $self->{client_ca};

    my $temp = join "\n    ", map { "${_}_temp_path $dir/${_}_temp;" }
                              qw(client_body proxy fastcgi uwsgi scgi);

    open my $fh, '>', "$dir/nginx.conf" or die "$dir/nginx.conf: $!\n";
    print {$fh} <<"EOC";
daemon off;
pid $dir/nginx.pid;
error_log $dir/error.log info;
worker_processes 1;
events { worker_connections 8192; }
http {
    $temp
    log_format handshake escape=json '{"sni":"\$ssl_server_name",'
        '"protocol":"\$ssl_protocol","reused":"\$ssl_session_reused",'
        '"bytes":"\$request_length","status":"\$status"}';
    access_log $dir/handshakes.jsonl handshake;
    large_client_header_buffers 8 64k;
    ignore_invalid_headers off;
    underscores_in_headers on;
    client_max_body_size 0;
    upstream behind {
        server $host:$self->{behind};
        keepalive 64;
    }
    server {
        listen $host:$self->{port} $listen backlog=2048;
        ssl_certificate $self->{cert};
        ssl_certificate_key $self->{key};
        ssl_session_cache shared:front:1m;
        $more
        location / {
            proxy_pass http://behind;
            proxy_http_version 1.1;
            proxy_set_header Host \$http_host;
            proxy_set_header Connection "";
            proxy_request_buffering off;
            proxy_buffering off;
            proxy_buffer_size 128k;
            proxy_buffers 4 128k;
            proxy_pass_header Server;
            proxy_pass_header Date;
            proxy_pass_header X-Accel-Redirect;
            proxy_pass_header X-Accel-Expires;
            proxy_pass_header X-Accel-Buffering;
            proxy_pass_header X-Accel-Limit-Rate;
            proxy_ignore_headers X-Accel-Redirect X-Accel-Expires
                X-Accel-Limit-Rate X-Accel-Buffering X-Accel-Charset
                Expires Cache-Control Set-Cookie Vary;
            proxy_next_upstream off;
            proxy_read_timeout 1h;
        }
    }
}
EOC
    close $fh or die "$dir/nginx.conf: $!\n";

    return;
}

# One for each request that came through. They are logged when their answer has
# gone, so who had an answer tells how many there are to be, and it is waited
# for them.

sub handshakes {
    my ($self, $at_least) = @_;

    my $deadline = time + $self->{timeout};

    for (;;) {
        my @lines = split /^/, slurp("$self->{dir}/handshakes.jsonl");
        return map { JSON::PP->new->decode($_) } @lines
            if @lines >= ($at_least // 0);

        die "handshakes: not $at_least in $self->{dir}\n" if time > $deadline;
        sleep 0.01;
    }
}

# What clients did wrong, or found wrong with us, says the error log.

sub error_log {
    my ($self) = @_;

    return slurp("$self->{dir}/error.log");
}

sub slurp {
    my ($file) = @_;

    open my $fh, '<', $file or return '';
    local $/;

    return scalar(<$fh>) // '';
}

sub stop {
    my ($self) = @_;

    my $pid = delete $self->{pid} // return;
    CdmStop::Process::end($pid);

    return;
}

1;
