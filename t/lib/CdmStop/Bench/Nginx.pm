package CdmStop::Bench::Nginx;

=head1 NAME

CdmStop::Bench::Nginx - the configurations of the benchmark's nginx

=head1 SYNOPSIS

    my $text = CdmStop::Bench::Nginx::conf($bed, $mode, master => 1);

The whole file for a mode of L<CdmStop::Bench::Modes>, on the test bed of
L<CdmStop::Bench::Bed>.

=cut

use strict;
use warnings;

# what JSON lines have in common, whoever writes them
my @FIELDS = (
    [time => 'time_iso8601'], [request_id => 'request_id'],
    [source_ip => 'remote_addr'], [forwarded_for => 'http_x_forwarded_for'],
    [user => 'remote_user'], [method => 'request_method'],
    [uri => 'request_uri'], [status => 'status'],
    [upstream => 'upstream_addr'], [upstream_status => 'upstream_status'],
    [upstream_time => 'upstream_response_time'],
    [duration => 'request_time'], [user_agent => 'http_user_agent'],
);

sub conf {
    my ($bed, $mode, %how) = @_;

    my $dir = $bed->dir;
    my $name = $mode->{name};
    my $master = $how{master} ? 'on' : 'off';
    my $load = join '', map { "load_module $_;\n" } modules($bed, $mode);
    my $http = { http => '', server => '',
                 %{$mode->{module} ? ours($bed, $mode, %how)
                                  : other($bed, $mode)} };
    my $log = $mode->{log} eq 'access' ? "$dir/$name.jsonl json" : 'off';

    return $load . <<"EOC";
user root;
daemon off;
master_process $master;
worker_processes 1;
pid $dir/$name.pid;
error_log $dir/$name.error.log error;
worker_rlimit_nofile 20000;
events { worker_connections 8192; }

http {
    keepalive_requests 10000000;
${\ $bed->nginx_globals($mode) }
${\ log_format() }
    upstream cdm {
        server 127.0.0.1:${\ $bed->cdm_port };
        keepalive 128;
        keepalive_requests 10000000;
    }
$http->{http}
    server {
        listen 127.0.0.1:${\ $bed->port($name) }${\ listen_tls($bed) }
        access_log $log;
$http->{server}
        location /v1.1/ {
$http->{location}
${\ upstream_tls($bed) }
            proxy_http_version 1.1;
            proxy_set_header   Connection '';
            proxy_pass         ${\ $bed->scheme }://cdm;
        }
    }
${\ control($bed, $name, $http->{control}) }
}
EOC
}

# What the driver asks for is not in the way of the stops.

sub control {
    my ($bed, $name, $location) = @_;

    return '' if !$location;

    return <<"EOC";
    server {
        listen 127.0.0.1:${\ $bed->port("$name-control") };
        $location
    }
EOC
}

sub modules {
    my ($bed, $mode) = @_;

    return $bed->{t}->module_file // () if $mode->{module};
    return if $mode->{gateway} ne 'lua';

    return map { "/usr/lib/nginx/modules/$_.so" }
               qw(ndk_http_module ngx_http_lua_module);
}

sub log_format {
    my @of = map {
        my ($field, $variable) = @$_;
        my $q = $field eq 'status' || $field eq 'duration' ? '' : '"';
        qq("$field":$q\$$variable$q);
    } @FIELDS;

    return "    log_format json escape=json '{'\n"
        . join(" ','\n", map { "        '$_'" } @of) . " '}';\n";
}

# The end of a listen directive, and what belongs to it.

sub listen_tls {
    my ($bed) = @_;

    my $cert = $bed->cert or return ';';

    return " ssl;\n        ssl_certificate $cert->{cert};\n"
        . "        ssl_certificate_key $cert->{key};";
}

# CDM's certificate is checked, as it is where the module is deployed.

sub upstream_tls {
    my ($bed) = @_;

    my $cert = $bed->cert or return '';

    return <<"EOC";
            proxy_ssl_verify   on;
            proxy_ssl_name     localhost;
            proxy_ssl_trusted_certificate $cert->{ca};
EOC
}

sub other {
    my ($bed, $mode) = @_;

    return lua($bed, $mode) if $mode->{gateway} eq 'lua';
    return auth_request($bed) if $mode->{name} eq 'auth_request';

    return { location => "proxy_set_header X-Auth-Token ${\ $bed->token };" };
}

# The location that asks IAM for a token, as OpenStack's clients do.

sub ask_iam {
    my ($bed, $more) = @_;

    return <<"EOC";
        location = /token {
            internal;
            proxy_method            POST;
            proxy_pass_request_headers off;
            proxy_set_header        Content-Type application/json;
            proxy_set_header        Content-Length ${\ length $bed->asks };
            proxy_set_body          '${\ $bed->asks }';
            proxy_buffer_size       8k;
            proxy_buffers           8 8k;
            proxy_pass              http://127.0.0.1:${\ $bed->iam_port
                                        }/v3/auth/tokens;
$more
        }
EOC
}

sub auth_request {
    my ($bed) = @_;

    return {
        http => <<"EOC",
    proxy_cache_path ${\ $bed->dir }/cache keys_zone=tokens:1m
                     use_temp_path=off;
EOC
        server => ask_iam($bed, <<'EOC'),
            proxy_cache             tokens;
            proxy_cache_key         token;
            proxy_cache_valid       201 20h;
            proxy_cache_lock        on;
            open_file_cache         max=16 inactive=1h;
EOC
        location => <<'EOC',
            auth_request       /token;
            auth_request_set   $token $upstream_http_x_subject_token;
            proxy_set_header   X-Auth-Token $token;
EOC
    };
}

# What is written for such a task: one token in the dictionary, asked for when
# it is missing, and a line of JSON in one write(2) for each request.

sub lua {
    my ($bed, $mode) = @_;

    my $fields = join ",\n", map {
        my ($field, $variable) = @$_;
        "                $field = ngx.var.$variable";
    } @FIELDS;

    return {
        http => <<"EOC",
    lua_shared_dict tokens 1m;
    init_worker_by_lua_block {
        cjson = require "cjson"
        log = io.open("${\ $bed->dir }/$mode->{name}.jsonl", "a")
        log:setvbuf("full")
    }
EOC
        server => ask_iam($bed, ''),
        control => tokens_in_lua(),
        location => <<"EOC",
            access_by_lua_block {
                local tokens = ngx.shared.tokens
                local token = tokens:get("gateway")

                if not token then
                    local answer = ngx.location.capture("/token")
                    token = answer.header["X-Subject-Token"]

                    if answer.status ~= 201 or not token then
                        return ngx.exit(503)
                    end

                    tokens:set("gateway", token, 72000)
                end

                ngx.req.set_header("X-Auth-Token", token)
            }
            log_by_lua_block {
                log:write(cjson.encode({
$fields
                }), "\\n")
                log:flush()
            }
EOC
    };
}

# How much memory so many tokens take of the dictionary, for the table.

sub tokens_in_lua {
    return <<'EOC';
location = /memory {
            content_by_lua_block {
                local tokens = ngx.shared.tokens
                local before = tokens:free_space()
                local n = tonumber(ngx.var.arg_tokens)
                local token = tokens:get("gateway")

                for i = 1, n do
                    local ok, err, forced = tokens:set("t" .. i, token)

                    if not ok or forced then
                        return ngx.exit(500)
                    end
                end

                ngx.print((before - tokens:free_space()) / n)
            }
        }
EOC
}

sub ours {
    my ($bed, $mode, %how) = @_;

    my $name = $mode->{name};
    my $dir = $bed->dir;
    my $audit = $mode->{log} eq 'none' ? 'off' : "$dir/$name.jsonl";
    my $http = <<"EOC";
    cdm_stop_zone cdm:16m;
    cdm_stop_iam huawei {
        uri            http://127.0.0.1:${\ $bed->iam_port };
        insecure       on;
        method         password;
        domain         acme;
        user           cdm-gateway;
        password_file  $dir/secrets/password;
        projects       ${\ $bed->projects };
    }
EOC

    $http .= "    cdm_stop_audit_key $dir/key;\n"
        if $name eq 'keyed' || $name eq 'all';
    $http .= "    cdm_stop_policy org {\n"
        . join('', map { "        deny r$_ job=job_$_ user=user_$_;\n" }
                   1 .. 999)
        . "        allow airflow domain=acme;\n    }\n" if $name eq 'all';

    my @location = ('cdm_stop huawei', "cdm_stop_audit $audit",
        $name eq 'all' ? 'cdm_stop_enforce org'
            : ('cdm_stop_verify off', 'cdm_stop_anonymous on'),
        $bed->cert ? () : 'cdm_stop_insecure_upstream on');

    return {
        http => $http,
        control => $name eq 'all' || $how{counted}
                   ? 'location = /cdm_stop { cdm_stop_status; }' : undef,
        location => join('', map { "            $_;\n" } @location),
    };
}

1;
