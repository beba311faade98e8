#!/usr/bin/perl

# A client that leaves loses no outcome: a stop that was sent is followed to
# its end and recorded as it ended, one that was not yet sent stays unsent.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Http;
use CdmStop::Test;

my $t = CdmStop::Test->new;
my ($iam, $cdm) = ($t->iam, $t->cdm);

$t->config(<<'EOC');
%%GLOBALS%%
worker_processes 1;
events { worker_connections 2048; }
http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone cdm:1m;
    cdm_stop_iam huawei {
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        method         password;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       any;
        timeout        20s;
    }
    cdm_stop                    huawei;
    cdm_stop_verify             off;
    cdm_stop_anonymous          on;
    cdm_stop_insecure_upstream  on;
    cdm_stop_wait               15s;
    cdm_stop_audit              %%TESTDIR%%/audit.jsonl;

    server {
        listen 127.0.0.1:%%PORT%%;
        location /v1.1/ { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_unbuffered%%;
        location /v1.1/ {
            proxy_buffering  off;
            proxy_pass       http://127.0.0.1:%%CDM_PORT%%;
        }
    }
    server {
        listen 127.0.0.1:%%PORT_h2%% http2;
        location /v1.1/ {
            proxy_ignore_client_abort off;
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
    }
    server {
        listen 127.0.0.1:%%PORT_h2_unbuffered%% http2;
        location /v1.1/ {
            proxy_buffering  off;
            proxy_pass       http://127.0.0.1:%%CDM_PORT%%;
        }
    }
}
EOC

$t->start;

my ($worker) = $t->worker_pids;
my $at_rest = sockets();
my ($read, @records) = (0);

# A client: how it sends a stop, and how it leaves. None has read an answer.

my %client = (
    'HTTP/1.1 close' => http1(sub { $_[0]->close }),
    'HTTP/1.1 reset' => http1(sub { $_[0]->reset }),
    'HTTP/1.1 half-close and reset' =>
        http1(sub { $_[0]->finish_sending; $_[0]->reset }),
    'HTTP/1.1 reset with another request behind' => {
        %{http1(sub { $_[0]->reset })},
        port => '', behind => "GET / HTTP/1.1\r\nHost: a\r\n\r\n" },
    'HTTP/1.1 unbuffered close' => http1(sub { $_[0]->close }, 'unbuffered'),
    'HTTP/1.1 unbuffered reset' => http1(sub { $_[0]->reset }, 'unbuffered'),
    'HTTP/2 RST_STREAM' => http2(sub { $_[0]->rst($_[1], 8) }),
    'HTTP/2 RST_STREAM and close' =>
        http2(sub { $_[0]->rst($_[1], 8); $_[0]->close }),
    'HTTP/2 close' => http2(sub { $_[0]->close }),
    'HTTP/2 reset' => http2(sub { $_[0]->reset }),
    'HTTP/2 GOAWAY and close' => http2(sub {
        $_[0]->frame(7, 0, 0, pack 'NN', 0, 0);
        $_[0]->close;
    }),
    'HTTP/2 protocol error' => http2(sub {
        $_[0]->frame(6, 0, 7, 'ping on a stream');
    }),
    'HTTP/2 unbuffered RST_STREAM' =>
        http2(sub { $_[0]->rst($_[1], 8) }, 'h2_unbuffered'),
    'HTTP/2 unbuffered reset' =>
        http2(sub { $_[0]->reset }, 'h2_unbuffered'),
);

sub http1 {
    my ($leave, $port) = @_;

    return {
        port => $port // '', leave => $leave,
        send => sub {
            my ($self, %arg) = @_;

            my $c = $t->connect(port => $t->port($self->{port}));
            my $bytes = CdmStop::Http::build_request(
                method => 'PUT', target => $t->stop_target(%arg),
                headers => $arg{length} ? ['Content-Length' => $arg{length}]
                                        : undef);
            return $c->send($bytes . ($self->{behind} // ''));
        },
    };
}

sub http2 {
    my ($leave, $port) = @_;

    return {
        port => $port // 'h2', leave => $leave,
        send => sub {
            my ($self, %arg) = @_;

            my $c = $t->h2(port => $t->port($self->{port}));
            my $id = $c->request(
                headers => [$t->h2_stop_headers(%arg), $arg{length}
                            ? ['content-length', $arg{length}] : ()],
                end => $arg{length} ? 0 : 1);
            $c->{client}->flush;

            return ($c, $id);
        },
    };
}

# All records so far; each line is decoded once.

sub records {
    open my $fh, '<:raw', $t->path('audit.jsonl') or die "audit.jsonl: $!\n";
    seek $fh, $read, 0;

    while (my $line = <$fh>) {
        last if $line !~ s/\n\z//;
        $read += 1 + length $line;
        push @records, CdmStop::Test::Records::parse_line($line, 'a record');
    }

    return @records;
}

# Waits until a sub is true for the records.

sub wait_records {
    my ($until) = @_;

    return $t->wait_for(sub { $until->(records()) }, what => 'records');
}

sub records_for {
    my ($job) = @_;

    my %records;
    push @{$records{$_->{stage}}}, $_
        for grep { ($_->{job_name} // '') eq $job } records();

    return \%records;
}

# Waits for the last record of a job; all of them by stage.

sub end_of {
    my ($job) = @_;

    wait_records(sub {
        grep { ($_->{job_name} // '') eq $job
               && $_->{stage} =~ /outcome|refused/ } @_
    });

    return records_for($job);
}

sub count {
    my ($records) = @_;

    return join ' ', map { "$_=" . @{$records->{$_}} } sort keys %$records;
}

# The worker is as before: no request that waits for ever, no connection kept.

sub all_is_well {
    my ($name) = @_;

    my $r = $t->put_stop(job => 'after');
    is($r->{status}, 200, "$name: the next stop works");

    $t->wait_for(sub { sockets() <= $at_rest }, what => 'closed sockets');
    return;
}

# Waits until the client has the header of the answer, or something of it.

sub begin_of_answer {
    my ($c, $id) = @_;

    return $t->wait_for(sub {
        $c->read_frames(0.1);
        $c->{streams}{$id}{status};
    }, what => 'header of the answer') if defined $id;

    return $t->wait_for(sub {
        vec(my $r = '', fileno $c->{sock}, 1) = 1;
        select $r, undef, undef, 0.1;
    }, what => 'begin of the answer');
}

# Waits until nginx has accepted all connections and read what they brought.

sub all_is_read {
    my %ours = map { sprintf('%04X', $t->port($_)) => 1 }
               '', qw(unbuffered h2 h2_unbuffered);

    # local and remote port, bytes to send and to read
    my $socket = qr/\A\s*\d+: \S+:(\w{4}) \S+:(\w{4}) \w\w (\w+):(\w+) /;

    return $t->wait_for(sub {
        return !grep {
            $_ =~ $socket && ($ours{$1} && hex $4 || $ours{$2} && hex $3)
        } split /\n/, $t->read('/proc/net/tcp');
    }, what => 'read requests');
}

sub sockets {
    return scalar grep { (readlink($_) // '') =~ /\Asocket:/ }
           glob "/proc/$worker/fd/*";
}

my $error = '{"validation-result":[{"message":"m","status":"ERROR"}]}';
my $n = 0;


subtest 'D14 between the header and the body of the answer' => sub {
    my %job;

    # CDM sends the header, the client leaves, the body comes 300 ms later
    $cdm->reset_log;
    $cdm->script({ body => $error, delay_body => 0.3 });

    for my $name (sort keys %client) {
        my ($client, $job) = ($client{$name}, 'header' . ++$n);
        my @c = $client->{send}->($client, job => $job);

        $cdm->wait_requests($n);
        $client->{leave}->(@c);
        $job{$name} = [$job, @c];
    }

    for my $name (sort keys %job) {
        my $records = end_of($job{$name}[0]);

        is(count($records), 'intent=1 outcome=1', "$name: a pair");
        my $outcome = $records->{outcome}[0];
        is($outcome->{verdict}, 'failed', 'failed');
        is($outcome->{status}, 200, 'as CDM said');
        is($outcome->{upstream_status}, 200, 'with a 200');
        is($outcome->{cdm_message}, 'm', 'and this message');
        is($outcome->{attempts}, 1, 'once');
    }

    is($cdm->count, keys %client, 'nothing was sent twice');
    %job = ();
    $cdm->script;
    all_is_well('header');
};

subtest 'D14 before the header of the answer, and amid it' => sub {
    my $head = "HTTP/1.1 200 OK\r\nContent-Length: " . length($error);

    for my $rule ({ body => $error, delay => 0.3 },
                  { parts => [$head, 0.3, "\r\n\r\n$error"] },
                  { parts => ["HTTP/1.1 103 Early\r\n\r\n", 0.3,
                              "$head\r\n\r\n$error"] },
                  { parts => ["$head\r\n\r\n" . substr($error, 0, 9), 0.3,
                              substr($error, 9)] })
    {
        my %job;
        $cdm->reset_log;
        $cdm->script($rule);
        my $sent = 0;

        for my $name (sort keys %client) {
            my ($client, $job) = ($client{$name}, 'before' . ++$n);
            my @c = $client->{send}->($client, job => $job);

            $cdm->wait_requests(++$sent);
            $client->{leave}->(@c);
            $job{$name} = [$job, @c];
        }

        for my $name (sort keys %job) {
            my $records = end_of($job{$name}[0]);

            is(count($records), 'intent=1 outcome=1', "$name: a pair");
            my $outcome = $records->{outcome}[0];
            is($outcome->{verdict}, 'failed', 'failed');
            is($outcome->{status}, 200, 'as CDM said');
        }

        is($cdm->count, keys %client, 'nothing was sent twice');
    }

    $cdm->script;
    all_is_well('before');
};

subtest 'D14 CDM fails when the client is gone' => sub {
    my %end = (
        'reset' => { reset => 'mid_body' }, 'close' => { close => 'mid_body' },
        'reset before' => { delay => 0.1, reset => 'before_response' },
        'rubbish' => { delay => 0.1, raw => 'no', close => 1 },
    );

    for my $end (sort keys %end) {
        my %job;
        $cdm->reset_log;
        $cdm->script({ body => $error, %{$end{$end}} });
        my $sent = 0;

        for my $name (sort keys %client) {
            my ($client, $job) = ($client{$name}, 'fails' . ++$n);
            my @c = $client->{send}->($client, job => $job);
            $cdm->wait_requests(++$sent);
            $client->{leave}->(@c);
            $job{$name} = [$job, @c];
        }

        for my $name (sort keys %job) {
            my $records = end_of($job{$name}[0]);

            is(count($records), 'intent=1 outcome=1', "$end, $name: a pair");
            my $outcome = $records->{outcome}[0];
            is($outcome->{verdict}, 'unknown', 'unknown');
            is($outcome->{error_code}, 'CDMSTOP.0402', '.0402');
        }
    }

    $cdm->script;
    all_is_well('fails');
};

subtest 'D14 amid a long answer' => sub {
    my %job;
    $cdm->reset_log;
    $cdm->script({ status => 400, body => '{' . ' ' x 3_000_000 . '}' });

    for my $name (sort keys %client) {
        my ($client, $job) = ($client{$name}, 'long' . ++$n);
        my @c = $client->{send}->($client, job => $job);

        # the first bytes of it are there: it passes by now
        begin_of_answer(@c);
        $client->{leave}->(@c);
        $job{$name} = [$job, @c];
    }

    for my $name (sort keys %job) {
        my $records = end_of($job{$name}[0]);

        is(count($records), 'intent=1 outcome=1', "$name: a pair");
        is($records->{outcome}[0]{verdict}, 'failed', 'by the status');
        is($records->{outcome}[0]{status}, 400, 'which is in the record');
    }

    %job = ();
    $cdm->script;
    all_is_well('long');
};

subtest 'D14 W09 while waiting for IAM' => sub {
    my %job;
    my $project = 'a' x 32;

    $cdm->reset_log;
    $iam->reset_log;
    $iam->script({ hold => 'token' });

    # some stay: they are not to suffer
    my @stay = map { $t->start_stop(project => $project, job => "stay$_") }
               1 .. 5;
    $iam->wait_requests(1);

    for my $name (sort keys %client) {
        my ($client, $job) = ($client{$name}, 'waits' . ++$n);
        my @c = $client->{send}->($client, job => $job, project => $project);

        $job{$name} = [$job, @c];
    }

    push @stay, map { $t->start_stop(project => $project, job => "stay$_") }
                6 .. 10;

    all_is_read();

    for my $name (sort keys %job) {
        my ($job, @c) = @{$job{$name}};
        $client{$name}{leave}->(@c);
    }

    for my $name (sort keys %job) {
        my $records = end_of($job{$name}[0]);

        is(count($records), 'refused=1', "$name: one record");
        my $refused = $records->{refused}[0];
        is($refused->{verdict}, 'not_sent', 'not sent');
        is($refused->{status}, 499, 'the client closed the request');
        is($refused->{error_code}, undef, 'and no code of the gateway');
        is($refused->{upstream_status}, undef, 'nor of CDM');
    }

    is($cdm->bytes, 0, 'nothing is at CDM');
    $iam->release('token');

    my @answers = $t->finish(@stay);
    is(join(' ', map { $_->{status} } @answers), join(' ', (200) x 10),
       'those who stayed get their answers');
    is($cdm->count, 10, 'they are what CDM got');
    is(scalar($iam->posts), 1, 'IAM was asked once for all');

    %job = ();
    $iam->script;
    all_is_well('waits');
};

subtest 'D14 W09 all leave while IAM is asked' => sub {
    my $project = 'b' x 32;

    $cdm->reset_log;
    $iam->reset_log;
    $iam->script({ hold => 'late' });

    my @c = map { $t->start_stop(project => $project, job => "all$_") } 1 .. 20;
    $iam->wait_requests(1);
    all_is_read();
    $_->reset for @c;
    wait_records(sub { 20 == grep { ($_->{job_name} // '') =~ /\Aall/
                                    && $_->{stage} eq 'refused' } @_ });

    # the exchange with IAM belongs to the worker, and its token is kept
    $iam->release('late');
    is($t->put_stop(project => $project)->{status}, 200,
       'the next one is served');
    is(scalar($iam->posts), 1, 'with the token that nobody waited for');
    is($cdm->count, 1, 'nothing else is at CDM');
    is(scalar(grep { ($_->{job_name} // '') =~ /\Aall/ } records()), 20,
       'one record for each that left');

    $iam->script;
    all_is_well('all');
};

subtest 'D14 W09 while sending a body' => sub {
    my %job;
    my $project = 'c' x 32;

    $cdm->reset_log;
    $iam->reset_log;

    for my $name (sort keys %client) {
        next if $name =~ /behind/;
        my ($client, $job) = ($client{$name}, 'body' . ++$n);
        my @c = $client->{send}->($client, job => $job, project => $project,
                                  length => 100_000);
        my $part = 'x' x 1000;
        @c == 2 ? $c[0]->data($c[1], $part) : $c[0]->send($part);
        $job{$name} = [$job, @c];
    }

    all_is_read();

    for my $name (sort keys %job) {
        my ($job, @c) = @{$job{$name}};
        $client{$name}{leave}->(@c);
        my $records = end_of($job);

        is(count($records), 'refused=1', "$name: one record");
        my $refused = $records->{refused}[0];
        is($refused->{verdict}, 'not_sent', 'not sent');
        like($refused->{status}, qr/\A4\d\d\z/, "status $refused->{status}");
        is($refused->{error_code}, undef, 'no code of the gateway');
    }

    is($cdm->bytes, 0, 'nothing is at CDM');
    is($iam->bytes, 0, 'nor at IAM');
    %job = ();
    all_is_well('body');
};

subtest 'D14 W09 with its request, before nginx has read it' => sub {
    my $before = records();
    my $sent = 0;

    $cdm->reset_log;

    # nginx finds the end of the connection right behind the request
    for my $name (sort keys %client) {
        my ($client, $job) = ($client{$name}, 'gone' . ++$n);
        kill 'STOP', $worker;
        my @c = $client->{send}->($client, job => $job);
        $client->{leave}->(@c);
        kill 'CONT', $worker;
    }

    # what was decided has its records, whatever that was
    $t->put_stop(job => 'last');
    $t->wait_for(sub {
        my @new = grep { ($_->{job_name} // '') =~ /\Agone/ }
                  records();
        my $intents = grep { $_->{stage} eq 'intent' } @new;
        my $outcomes = grep { $_->{stage} eq 'outcome' } @new;
        return $intents == $outcomes;
    }, what => 'an outcome for each intent');

    my %of;
    push @{$of{$_->{job_name}}}, $_->{stage}
        for grep { ($_->{job_name} // '') =~ /\Agone/ } records();
    my %kinds;
    $kinds{join ' ', @$_}++ for values %of;
    delete @kinds{'intent outcome', 'refused'};
    is(join(', ', keys %kinds), '', 'pairs or refusals, nothing else');

    my %arrived;
    $arrived{$_}++ for $cdm->raw =~ m{/cdm/job/(gone\d+)/stop}g;
    is(scalar(grep { $_ > 1 } values %arrived), 0, 'none arrived twice');
    is(scalar(grep { "@{$of{$_} // []}" ne 'intent outcome' } keys %arrived), 0,
       'and what arrived has a pair');
    all_is_well('gone');
};

subtest 'D14 W09 many, at moments of their own' => sub {
    my $jobs = 300;
    my @open;

    $cdm->reset_log;
    $cdm->script(
        (map { { when => { job => qr/[$_]\z/ }, body => $error,
                 delay => 0.004 * $_, delay_body => 0.003 * $_ } } 0 .. 6),
        { body => $error });

    for my $i (1 .. $jobs) {
        my $h2 = $i % 3 == 0;
        my $client = $h2 ? $client{'HTTP/2 reset'} : $client{'HTTP/1.1 reset'};
        my @c = $client->{send}->($client, job => "many$i");
        push @open, [$client, @c];

        if (@open > $i % 7) {
            my ($old, @which) = @{shift @open};
            $old->{leave}->(@which);
        }
    }

    $_->[0]{leave}->(@$_[1 .. $#$_]) for @open;

    my $pairs = sub {
        my %stages;
        $stages{$_->{job_name}}{$_->{stage}}++
            for grep { ($_->{job_name} // '') =~ /\Amany/ } @_;
        return \%stages;
    };
    my $stages;
    wait_records(sub {
        $stages = $pairs->(@_);
        return !grep { !$_->{refused} && !$_->{outcome} } values %$stages;
    });
    $t->put_stop(job => 'barrier');
    $stages = $pairs->(records());

    my @wrong = grep {
        my $s = $stages->{$_};
        my $seen = join ' ', map { "$_=$s->{$_}" } sort keys %$s;
        $seen ne 'intent=1 outcome=1' && $seen ne 'refused=1';
    } keys %$stages;
    is(join(' ', @wrong), '', 'pairs or refusals, nothing else');

    my %arrived;
    $arrived{$_}++ for $cdm->raw =~ m{/cdm/job/(many\d+)/stop}g;
    is(scalar(grep { $_ > 1 } values %arrived), 0, 'none arrived twice');
    is(scalar(grep { !$stages->{$_}{outcome} } keys %arrived), 0,
       'what arrived has its outcome');
    my @false = grep { $_->{stage} eq 'outcome' && $_->{job_name} =~ /\Amany/
                       && $_->{verdict} ne 'failed' }
                records();
    is(scalar(@false), 0, 'and each of them is "failed", as CDM said');

    $cdm->script;
    all_is_well('many');
};

$t->done;
