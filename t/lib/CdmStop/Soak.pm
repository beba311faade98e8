package CdmStop::Soak;

=head1 NAME

CdmStop::Soak - a gateway under mixed load with everything that can go wrong

=head1 SYNOPSIS

    my $soak = CdmStop::Soak->new($t, seconds => 1800, seed => 7);
    $soak->run;
    $soak->report;         # counts and figures
    $soak->check;          # a test for each of what must be true
    $t->done;

What is sent is told by L<CdmStop::Soak::Kinds>, what happens meanwhile by
L<CdmStop::Soak::Weather>, what must be true by L<CdmStop::Soak::Judge> and in
C<check>. docs/TESTING.md has the whole of it.

Memory is measured at rest. To compare like with like, at a fifth and at the
end the configuration is loaded anew and the new workers serve the same load
first: what is more at the end, the master, the zone or what workers inherit
has gained. What a worker gains as it grows old is measured in the fifths of
the run in which nobody ends it.

=cut

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time);

use CdmStop::Chain;
use CdmStop::Metrics;
use CdmStop::Soak::Cdm;
use CdmStop::Soak::Judge;
use CdmStop::Soak::Kinds;
use CdmStop::Soak::Load;
use CdmStop::Soak::Memory;
use CdmStop::Soak::Weather;

use constant {
    WORKERS => 4,
    LIFE => 30,
    GROWTH => 1.02,

    # in pieces, and with a redzone around each of them, memory is used up for
    # a while as it is given back: steps, and no slope, in a plain build
    AGED => 1.10,
};

my $CONFIG = <<'EOC';
%%GLOBALS%%
worker_processes 4;
events { worker_connections 1024; }
http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone       cdm:1m;
    cdm_stop_audit_key  %%TESTDIR%%/secrets/key;
    cdm_stop_iam huawei {
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        method         password;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       @PROJECTS@;
        timeout        3s;
        hold           5s;
        verify_cache   5s;
    }
    cdm_stop_policy org {
        deny   frozen  job=~^frozen_;
        deny   banned  user=banned;
        @RULES@
        allow  all     domain=acme;
    }
    large_client_header_buffers  4 40k;
    client_max_body_size         4k;
    client_header_timeout        5s;
    client_body_timeout          5s;
    proxy_connect_timeout        2s;
    proxy_read_timeout           3s;
    proxy_set_header             X-Gateway-Id $cdm_stop_request_id;
    cdm_stop_enforce             org;
    cdm_stop_wait                @WAIT@;
    cdm_stop_insecure_upstream   on;
    cdm_stop_audit               %%TESTDIR%%/audit.jsonl;

    server {
        listen 127.0.0.1:%%PORT%% backlog=2048;
        @H2@
        listen 127.0.0.1:%%PORT_tls%% ssl @HTTP2@;
        ssl_certificate      %%TESTDIR%%/certs/good.crt;
        ssl_certificate_key  %%TESTDIR%%/certs/good.key;

        location /v1.1/ {
            cdm_stop    huawei;
            proxy_pass  http://127.0.0.1:%%CDM_PORT%%;
        }
        location /v1.1/@SYNC@/ {
            cdm_stop        huawei;
            cdm_stop_audit  %%TESTDIR%%/audit-sync.jsonl @SYNC_WORD@;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
        location /v1.1/@REASON@/ {
            cdm_stop         huawei;
            cdm_stop_reason  X-Stop-Reason ~^CHG-;
            proxy_pass       http://127.0.0.1:%%CDM_PORT%%;
        }
        location /v1.1/@RATED@/ {
            cdm_stop       huawei;
            cdm_stop_rate  30/m burst=3;
            proxy_pass     http://127.0.0.1:%%CDM_PORT%%;
        }
        location = /status { cdm_stop_status; }
    }
}
EOC

sub new {
    my ($class, $t, %opt) = @_;

    my $self = bless { t => $t, rate => 30, %opt }, $class;

    srand $self->{seed};
    $self->set_up;

    return $self;
}

sub set_up {
    my ($self) = @_;

    my $t = $self->{t};
    my @audit = qw(audit.jsonl audit-sync.jsonl);

    $t->write_secret('secrets/key', $t->ledger->key . "\n");
    $t->audit_key($t->read('secrets/key') =~ s/\n\z//r);
    $t->cert('good');

    my $iam = $t->iam(record => 0, life => LIFE, token_size => 700);
    my $cdm = $t->standin('CdmStop::Soak::Cdm', name => 'cdm', port => 'CDM',
        record => 0, audit => [map { $t->path($_) } @audit]);

    $self->{h2} = $t->has('--with-http_v2_module');
    my $kinds = CdmStop::Soak::Kinds->new($t, iam => $iam, h2 => $self->{h2});
    my $load = CdmStop::Soak::Load->new($t, kinds => $kinds,
                                        rate => $self->{rate});

    @$self{qw(iam cdm kinds load)} = ($iam, $cdm, $kinds, $load);
    $self->{weather} = CdmStop::Soak::Weather->new($t, iam => $iam,
        cdm => $cdm, kinds => $kinds, load => $load, audit => \@audit,
        life => LIFE, seconds => $self->{seconds},
        config => sub { $self->config(@_) });
    $self->{memory} = CdmStop::Soak::Memory->new($t);
    $self->{metrics} = CdmStop::Metrics->new($t);

    return;
}

# AddressSanitizer keeps what is freed: less of it, so that it is full soon.

sub small_quarantine {
    $ENV{ASAN_OPTIONS} = join ':', $ENV{ASAN_OPTIONS} // (),
        'quarantine_size_mb=1', 'thread_local_quarantine_size_kb=64';

    return;
}

# The configuration in its n-th version; a broken one without a number.

sub config {
    my ($self, $version) = @_;

    my ($t, $kinds) = @$self{qw(t kinds)};
    my $n = $version // 0;
    my %word = (
        PROJECTS => join(' ', $kinds->projects),
        RULES => join("\n        ",
                      map { "deny r$_ job=absent$_;" } 1 .. $n % 7 * 9),
        WAIT => $n % 3 + 3 . 's',
        H2 => $self->{h2} ? 'listen 127.0.0.1:%%PORT_h2%% http2;' : '',
        HTTP2 => $self->{h2} ? 'http2' : '',
        SYNC_WORD => $t->has('--with-threads') ? 'sync' : '',
        map({ uc $_ => $kinds->{$_ . '_project'} } qw(sync reason rated)),
    );

    my $text = $CONFIG =~ s/\@(\w+)\@/$word{$1}/gr;
    $text .= "cdm_stop_nonsense;\n" if !defined $version;

    return $t->expand($text);
}

sub run {
    my ($self) = @_;

    my ($t, $weather) = @$self{qw(t weather)};
    my $fifth = $self->{seconds} / 5;

    $t->{conf} = $t->write('nginx.conf', $self->config(0));
    $t->start;
    $self->{begin} = time;

    $weather->run(0, $fifth);
    $self->recover;
    $self->settle;
    $self->{early} = $self->{memory}->measure;
    $self->tell('at a fifth');

    $self->grow_old($fifth);
    $weather->run(2 * $fifth, 3 * $fifth);
    $self->grow_old(3 * $fifth);
    $weather->run(4 * $fifth, 5 * $fifth);
    $self->recover;
    $self->settle;
    $self->{late} = $self->{memory}->measure;
    $self->tell('at the end');

    $self->{waiting} = $self->waiting;
    $self->{connected} = $self->connected;
    $self->{took} = time - $self->{begin};

    return;
}

sub tell {
    my ($self, $what) = @_;

    diag(sprintf '%6.0f s: %s, %d requests', time - $self->{begin}, $what,
         scalar @{$self->{load}->results});
    return;
}

# Until nothing is under way.

sub rest {
    my ($self) = @_;

    my $t = $self->{t};

    $self->{weather}->clear;
    $self->{load}->drain;
    $t->wait_for(sub { !$self->waiting && !$self->connected }, quiet => 1);

    # the answers are in a file, and what the harness has is no leak of nginx
    @{$t->{answers}} = ();

    return;
}

# A fifth of the run in which no worker ends: what they have after a fifth of
# it, and at its end.

sub grow_old {
    my ($self, $from) = @_;

    my ($weather, $memory) = @$self{qw(weather memory)};
    my $fifth = $self->{seconds} / 5;

    $self->settle;
    $weather->run($from, $from + $fifth / 5);
    $self->same_load;
    my $young = $memory->measure;

    $weather->run($from + $fifth / 5, $from + $fifth);
    $self->same_load;
    push @{$self->{aged}}, [$young, $memory->measure];
    $self->tell('workers grew old');

    return;
}

# All projects are served again.

sub recover {
    my ($self) = @_;

    my ($t, $load, $kinds) = @$self{qw(t load kinds)};

    $self->rest;

    for my $project ($kinds->projects) {
        my $made;

        $t->wait_for(sub {
            $made = $kinds->make_ok('ok');
            my $stop = $made->{stops}[0];
            $stop->{project} = $project;
            $made->{bytes} = $kinds->bytes($stop, headers => $kinds->headers(
                $stop, ['X-Stop-Reason', 'CHG-1']));
            $stop->{class} = 'rated';
            $load->begin($made);
            $load->drain;
            $load->results->[-1]{status} == 200;
        }, what => "service for project $project", timeout => 120);
    }

    return;
}

# New workers have served a load that is always the same.

sub settle {
    my ($self) = @_;

    $self->rest;
    $self->{t}->reload;
    $self->same_load;

    return;
}

sub same_load {
    my ($self) = @_;

    my %kinds = map { $_ => 1 } @{$self->{kinds}{urn}};
    my @kinds = grep { !/\A(?:mortal|slow|status|rated|leaves.*)\z/ }
                sort keys %kinds;

    $self->rest;

    for (1 .. 4) {
        $self->{load}->burst($self->{seconds} > 60 ? 240 : 40, @kinds);
        $self->{load}->drain;
    }

    $self->rest;

    return;
}

# Requests that wait for IAM, as the gateway tells.

sub waiting {
    my ($self) = @_;

    return $self->{metrics}->json->{waiting}{requests};
}

# Connections of master and workers, as the kernel has them, but for the one
# that asked for the status.

sub connected {
    my ($self) = @_;

    my $t = $self->{t};
    my %inode;

    for my $table (qw(tcp tcp6)) {
        for (split /\n/, CdmStop::Test::Nginx::slurp("/proc/net/$table") // '')
        {
            my @field = split;
            $inode{$field[9]} = 1 if @field > 9 && $field[3] ne '0A';
        }
    }

    return scalar grep {
        (readlink($_) // '') =~ /\Asocket:\[(\d+)\]/ && $inode{$1}
    } map { glob "/proc/$_/fd/*" } $t->master_pid, $t->worker_pids;
}

sub chain {
    my ($self) = @_;

    my $t = $self->{t};
    my $chain = CdmStop::Chain->new(keys => $t->{audit_keys});

    for my $file (map { glob $t->path($_) . '*' }
                  qw(audit.jsonl audit-sync.jsonl))
    {
        next if $file =~ /\.(?:state|lock)/;
        $chain->add($file =~ s{.*/}{}r, $t->read($file));
    }

    return $chain;
}

# A test for each of what must be true. Growth is for a run that is long enough
# to tell it from chance: growth => 0 leaves it out.

sub check {
    my ($self, %opt) = @_;

    my ($t, $load) = @$self{qw(t load)};

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    $t->wait_for(sub { !$self->chain->open }, quiet => 1);
    $t->stop;
    close $load->{answers};

    my $chain = $self->chain;
    my $judge = $self->{judge} = CdmStop::Soak::Judge->new(
        results => $load->results, seen => $self->{cdm}->command('seen'),
        tokens => [$self->{iam}->tokens], chain => $chain,
        kinds => $self->{kinds}, weather => $self->{weather});

    # a worker that is killed may leave half a line, which the chain tells of
    $t->damages('audit.jsonl', 'audit-sync.jsonl')
        if $chain->torn && @{$self->{weather}{kills}};

    $self->none('at CDM: the intent was written before, one token, no header '
        . 'too many', @{$self->{cdm}->command('wrong')});
    $self->none('each stop at CDM has one intent', $judge->intents);
    $self->none('each stop had a token of the gateway, of its project, in its '
        . 'life', $judge->tokens);
    $self->none('no stop came twice, but for a token that was refused',
        $judge->repeats);
    $self->none('each intent has one outcome', $judge->outcomes);
    $self->none('each answer has its records', $judge->answered);
    $self->none('each answer is one that it may get', $judge->answers);
    $self->none('no answer is missing', $judge->lost);
    $self->none('no request is stuck', @{$load->{stuck}});
    $self->none('the chain is whole', $chain->troubles);
    $self->none('some of everything', $judge->nothing_missing);
    $self->check_figures(%opt);

    return;
}

# What the log may say of it, and what is asked after each test.

sub done {
    my ($self) = @_;

    my $t = $self->{t};

    $t->allow_log(qr/exited on signal 9|was locked by \d+|left in connection/);
    $t->allow_log(qr/unknown directive "cdm_stop_nonsense"/);
    $t->allow_log(qr/IAM refuses the gateway: status 401/);

    # USR1 and HUP at one moment: new workers inherit that they are to open the
    # logs, and do so before the master gives these to their user
    $t->allow_log(qr/\[emerg\] .* open\(\) "\S+" failed \(13: /);
    $t->done;

    return;
}

sub none {
    my ($self, $name, @complaints) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    ok(!@complaints, "Q01 $name")
        or diag(map { "$_\n" } @complaints > 20
            ? (@complaints[0 .. 19], 'and ' . (@complaints - 20) . ' more')
            : @complaints);

    return;
}

sub check_figures {
    my ($self, %opt) = @_;

    my ($early, $late) = @$self{qw(early late)};

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    is($self->{waiting}, 0, 'Q01 no request waits');
    is($self->{connected}, 0, 'Q01 no connection is left');

    # what another worker wrote and did not live to tell is read by a handle of
    # its own for each file, which is opened when it is needed first
    cmp_ok($late->{files}, '<=', $early->{files} + 2 * WORKERS,
           "Q01 open files: $early->{files} at a fifth, $late->{files} then");

    return if exists $opt{growth} && !$opt{growth};

    cmp_ok($late->{pss}, '<=', $early->{pss} * GROWTH,
        "Q01 memory: $early->{pss} KB at a fifth, $late->{pss} KB at the end");

    for my $pair (@{$self->{aged}}) {
        my ($young, $old) = map { $_->{pss} } @$pair;

        cmp_ok($old, '<=', $young * AGED,
            "Q01 memory as workers grow old: $young KB, $old KB");
    }

    return;
}

# What was done and seen.

sub report {
    my ($self) = @_;

    my $judge = $self->{judge};
    my (%kinds, %answers);

    for my $r (@{$self->{load}->results}) {
        $kinds{$r->{kind}}++;
        $answers{$r->{status} ? "$r->{status}" . ($r->{code} ? " .$r->{code}"
                                                              : '')
                 : $r->{left} ? 'left' : 'lost'}++;
    }

    my $issued = grep { $_->{user} eq 'cdm-gateway' } @{$judge->{tokens}};

    diag(sprintf "seed %s, %.0f s, %d requests, %d stops at CDM, %d tokens of "
         . "the gateway\n", $self->{seed}, $self->{took},
         scalar @{$self->{load}->results}, scalar @{$judge->{seen}{stops}},
         $issued);
    diag(table('requests', \%kinds));
    diag(table('answers', \%answers));
    diag(table('happened', $self->{weather}->counts));
    diag(table('records', { %{$judge->{stages}},
        closed => $judge->{closed} // 0, torn => scalar $judge->{chain}->torn }
    ));
    diag(table('verdicts', $judge->{verdicts}));

    for my $row (['at a fifth', $self->{early}], ['at the end', $self->{late}],
                 map({ (['young', $_->[0]], ['old', $_->[1]]) }
                     @{$self->{aged}}))
    {
        my ($name, $m) = @$row;

        diag(sprintf '%-11s PSS %d KB (anonymous %d, master %d, workers %d), '
             . '%d files', $name, @$m{qw(pss anon master workers files)});
    }

    return;
}

sub table {
    my ($name, $counts) = @_;

    my $line = "$name:";
    my @lines;

    for my $key (sort keys %{$counts // {}}) {
        my $item = " $key $counts->{$key},";

        if (length($line) + length($item) > 76) {
            push @lines, $line;
            $line = '   ';
        }

        $line .= $item;
    }

    return join "\n", @lines, $line =~ s/,\z//r;
}

1;
