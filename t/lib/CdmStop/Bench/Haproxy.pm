package CdmStop::Bench::Haproxy;

=head1 NAME

CdmStop::Bench::Haproxy - the configuration of the benchmark's HAProxy

=head1 SYNOPSIS

    my $text = CdmStop::Bench::Haproxy::conf($bed, $mode);

One thread, as nginx has one worker. The log goes to standard output, which is
a file that is appended to: HAProxy's own way to a file, one write(2) a line,
as nginx writes its access_log. Its fields are those of nginx's JSON.

=cut

use strict;
use warnings;

my @FIELDS = (
    'time' => '"%tr"', 'request_id' => '"%ID"', 'source_ip' => '"%ci"',
    'forwarded_for' => '"%[capture.req.hdr(1),json(utf8s)]"', 'user' => '""',
    'method' => '"%HM"', 'uri' => '"%[capture.req.uri,json(utf8s)]"',
    'status' => '%ST', 'upstream' => '"%si:%sp"',
    'upstream_status' => '"%ST"', 'upstream_time' => '"%Tr"',
    'duration' => '%Ta',
    'user_agent' => '"%[capture.req.hdr(0),json(utf8s)]"',
);

sub conf {
    my ($bed, $mode) = @_;

    my $cert = $bed->cert;
    my $dir = $bed->dir;
    my ($bind, $server) = ('', '');

    if ($cert) {
        $bed->write("$dir/haproxy.pem",
                    $bed->read($cert->{cert}) . $bed->read($cert->{key}), 0600);
        $bind = " ssl crt $dir/haproxy.pem";
        $server = " ssl verify required ca-file $cert->{ca}"
            . ' sni str(localhost) verifyhost localhost';
    }

    my ($line, @fields) = ('', @FIELDS);

    while (my ($name, $value) = splice @fields, 0, 2) {
        $line .= ($line ? ',' : '') . qq("$name":$value);
    }

    return <<"EOC";
global
    nbthread 1
    maxconn 6000
    log stdout format raw local0

defaults
    mode http
    log global
    timeout connect 5s
    timeout client 300s
    timeout server 300s

frontend gateway
    bind 127.0.0.1:${\ $bed->port($mode->{name}) }$bind
    unique-id-format %{+X}o%ci%cp%fi%fp%Ts%rt%pid
    http-request capture req.hdr(User-Agent) len 128
    http-request capture req.hdr(X-Forwarded-For) len 128
    log-format '{$line}'
    http-request set-header X-Auth-Token ${\ $bed->token }
    default_backend cdm

backend cdm
    http-reuse always
    server cdm 127.0.0.1:${\ $bed->cdm_port }$server
EOC
}

1;
