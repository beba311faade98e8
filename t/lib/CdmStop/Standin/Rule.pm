package CdmStop::Standin::Rule;

=head1 NAME

CdmStop::Standin::Rule - what a stand-in is told to do, and the steps of it

=head1 SYNOPSIS

    { when => { job => 'x', conn_request => 2 }, times => 1,
      status => 503, headers => ['Retry-After' => '5'], body => 'busy' }

The first rule that fits and is not used up (C<times>) is taken. It is laid
over the default answer of the stand-in; with C<status> of 300 and more,
C<raw> or C<parts> there is no default answer to lie over.

=head2 When

C<when>: method, target, path (no query), job, project, cluster, body (each a
string, qr// or list of both), header => { Name => string, qr// or undef for
absent }, conn_request (n-th request of its connection), n (n-th request of
all). C<on>: 'request' (default), 'accept' or 'first_byte' (of a request), the
latter two know only conn_request, raw, parts, delay, hold, reset, close, hang.

=head2 What

    answer   => NAME           one of the stand-in's named answers
    status, reason, version, headers (same names replace defaults), drop
             => [names], body  of the answer; %%TOKEN%% is the issued token
    no_length => 1             no Content-Length: the body ends by close
    chunked  => 1 | SIZE       chunked, in pieces of SIZE
    before   => BYTES          in front of the answer (interim answers)
    after    => BYTES          behind it
    raw      => BYTES          instead of an answer
    parts    => [BYTES, SECONDS, BYTES, ...]    bytes and pauses (numbers)
    delay    => SECONDS        before the first byte
    delay_body => SECONDS      between head and body
    drip     => SECONDS        for each byte (drip_size bytes) of the answer;
    drip_body => SECONDS       of the body only
    hold     => NAME           wait for $s->release(NAME)
    hold_body => NAME          wait between head and body
    hang     => 1              never answer, until the peer leaves
    deaf     => 1              read no more, answer no more
    reset, close => WHERE      'after_request' (before any byte),
                               'before_response' (after delay and hold),
                               'after_headers', 'mid_body', 'after_response'
                               (close => 1 is the last; also for 1 in events)

=cut

use strict;
use warnings;

use POSIX ();

use CdmStop::Http;

my %KNOWN = map { $_ => 1 } qw(
    when on times answer status reason version headers drop body no_length
    chunked before after raw parts delay delay_body drip drip_size drip_body
    hold hold_body hang deaf reset close token token_size life
);

my %PLACE = map { $_ => 1 } qw(
    after_request before_response after_headers mid_body after_response 1
);

my $STOP = qr{\A/v1\.1/([^/]*)/clusters/([^/]*)/cdm/job/([^/]*)/stop\z};

# Dies on words that no rule has: a typing error must not pass as a test.

sub check {
    my ($rule) = @_;

    for my $key (keys %$rule) {
        die "unknown word in a rule: $key\n" unless $KNOWN{$key};
    }

    for my $key (qw(reset close)) {
        die "unknown place: $key => $rule->{$key}\n"
            if defined $rule->{$key} && !$PLACE{$rule->{$key}};
    }

    return { %$rule };
}

sub fits {
    my ($when, $connection, $request) = @_;

    return 1 unless $when && ref $when;

    for my $key (keys %$when) {
        my $want = $when->{$key};

        if ($key eq 'conn_request') {
            my $number = $request ? $request->{conn_request}
                                  : $connection->{requests} + 1;
            return 0 unless $number == $want;

        } elsif ($key eq 'header') {
            for my $name (keys %$want) {
                return 0 unless equals($want->{$name}, $request->header($name));
            }

        } else {
            return 0 unless equals($want, fact($request, $key));
        }
    }

    return 1;
}

sub equals {
    my ($want, $have) = @_;

    if (ref $want eq 'ARRAY') {
        return scalar grep { equals($_, $have) } @$want;
    }

    return !defined $have if !defined $want;
    return 0 if !defined $have;

    return ref $want ? $have =~ $want : $have eq $want;
}

sub fact {
    my ($request, $key) = @_;

    return unless $request;
    return $request->{$key} if $key =~ /\A(?:method|target|body|n|version)\z/;

    my ($path) = split /\?/, $request->{target};
    return $path if $key eq 'path';

    my ($project, $cluster, $job) = $path =~ $STOP;
    return $job if $key eq 'job';
    return $project if $key eq 'project';
    return $cluster if $key eq 'cluster';

    die "unknown word in when: $key\n";
}

# Steps for accept and first_byte.

sub event_steps {
    my ($rule) = @_;

    return (early_steps($rule), byte_steps($rule), late_steps($rule));
}

# Steps for a request.

sub answer_steps {
    my ($server, $rule, $request) = @_;

    $rule //= {};

    return (early_steps($rule), byte_steps($rule), late_steps($rule))
        if $rule->{raw} || $rule->{parts} || $rule->{hang} || $rule->{deaf}
        || is_at($rule, 'after_request') || is_at($rule, 'before_response');

    my $answer = full_answer($server, $rule, $request);
    my ($head, $body, $keepalive) = wire($server, $answer, $request);

    my @steps = (early_steps($rule), ['send', $answer->{before} // '']);

    if ($rule->{drip}) {
        push @steps, ['drip', $head . $body, $rule->{drip},
                      $rule->{drip_size} // 1];
        return (@steps, end_steps($rule, $keepalive));
    }

    my $in_one = !grep { defined $rule->{$_} }
                 qw(delay_body hold_body drip_body reset close);

    push @steps, ['send', $in_one ? $head . $body . ($answer->{after} // '')
                                  : $head];
    push @steps, body_steps($rule, $answer, $body) unless $in_one;

    return (@steps, end_steps($rule, $keepalive));
}

sub is_at {
    my ($rule, $place) = @_;

    return ($rule->{reset} // '') eq $place || ($rule->{close} // '') eq $place;
}

sub leave {
    my ($rule) = @_;

    return $rule->{reset} ? ['reset'] : ['close'];
}

sub early_steps {
    my ($rule) = @_;

    my @steps;

    push @steps, leave($rule) if is_at($rule, 'after_request');
    push @steps, ['wait', $rule->{delay}] if $rule->{delay};
    push @steps, ['hold', $rule->{hold}] if defined $rule->{hold};
    push @steps, leave($rule) if is_at($rule, 'before_response');

    return @steps;
}

sub byte_steps {
    my ($rule) = @_;

    return (['send', $rule->{raw}]) if defined $rule->{raw} && !$rule->{drip};
    return (['drip', $rule->{raw}, $rule->{drip}, $rule->{drip_size} // 1])
        if defined $rule->{raw};

    my @steps;

    for my $part (@{$rule->{parts} // []}) {
        push @steps, $part =~ /\A\d*\.?\d+\z/ ? ['wait', $part]
                                              : ['send', $part];
    }

    return @steps;
}

sub late_steps {
    my ($rule) = @_;

    return (['hang']) if $rule->{hang};
    return (['deaf']) if $rule->{deaf};
    return (leave($rule)) if $rule->{reset} || $rule->{close};
    return ();
}

sub body_steps {
    my ($rule, $answer, $body) = @_;

    my @steps;

    push @steps, ['wait', $rule->{delay_body}] if $rule->{delay_body};
    push @steps, ['hold', $rule->{hold_body}] if defined $rule->{hold_body};
    push @steps, leave($rule) if is_at($rule, 'after_headers');

    if (is_at($rule, 'mid_body')) {
        # the bytes sent must have left before a reset takes them back
        return (@steps, ['send', substr($body, 0, int(length($body) / 2))],
                ['wait', 0.1], leave($rule));
    }

    push @steps, $rule->{drip_body}
        ? ['drip', $body, $rule->{drip_body}, $rule->{drip_size} // 1]
        : ['send', $body];

    return (@steps, ['send', $answer->{after} // '']);
}

sub end_steps {
    my ($rule, $keepalive) = @_;

    return (['reset']) if $rule->{reset};
    return (['close']) if $rule->{close} || !$keepalive;
    return ();
}

# The application's answer with the rule over it.

sub full_answer {
    my ($server, $rule, $request) = @_;

    my $named = defined $rule->{answer}
        ? $server->{app}->named_answer($rule->{answer}) : undef;
    my $status = $rule->{status} // ($named ? $named->{status} : undef);
    my $alone = defined $named || defined $status && $status >= 300;

    my %answer = $alone ? %{$named // { status => 200 }}
                        : %{$server->{app}->answer($request, $rule)};
    my @base = CdmStop::Http::pairs($answer{headers});
    my @own = CdmStop::Http::pairs($rule->{headers});

    $answer{$_} = $rule->{$_}
        for grep { exists $rule->{$_} }
            qw(status reason version body no_length chunked before after);

    @base = override([$server->{app}->defaults(\%answer)], \@base);
    @base = override(\@base, \@own);

    my %drop = map { lc $_ => 1 } @{$rule->{drop} // []};
    $answer{drop} = \%drop;
    $answer{headers} = [grep { !$drop{lc $_->[0]} } @base];
    $answer{body} //= '';

    insert_token(\%answer) if defined $answer{token_value};

    return \%answer;
}

# Headers of the first list but those that the second one has, then these.

sub override {
    my ($first, $second) = @_;

    my %has = map { lc $_->[0] => 1 } @$second;
    return ((grep { !$has{lc $_->[0]} } @$first), @$second);
}

sub insert_token {
    my ($answer) = @_;

    s/%%TOKEN%%/$answer->{token_value}/g
        for $answer->{body}, map { $_->[1] } @{$answer->{headers}};

    return;
}

# Head and body as bytes, and whether the connection stays.

sub wire {
    my ($server, $answer, $request) = @_;

    my @headers = @{$answer->{headers}};
    my %has = (%{$answer->{drop}}, map { lc $_->[0] => 1 } @headers);
    my $body = $answer->{body};
    my $keepalive = wants_keepalive($server, $request);
    my $length = length $body;

    if ($answer->{chunked}) {
        push @headers, ['Transfer-Encoding', 'chunked'];
        $body = CdmStop::Http::chunked($body, $answer->{chunked} > 1
                                              ? $answer->{chunked} : 4096);

    } elsif ($answer->{no_length}) {
        $keepalive = 0;

    } elsif (!$has{'content-length'} && $answer->{status} >= 200
             && $answer->{status} != 204)
    {
        push @headers, ['Content-Length', $length];
    }

    unshift @headers, ['Date', http_date(time)] unless $has{date};
    push @headers, ['Connection', $keepalive ? 'keep-alive' : 'close']
        unless $has{connection};

    $body = '' if ($request->{method} // '') eq 'HEAD';

    my $head = join "\r\n",
        'HTTP/' . ($answer->{version} // '1.1') . " $answer->{status} "
        . ($answer->{reason} // reason($answer->{status})),
        map({ "$_->[0]: $_->[1]" } @headers), '', '';

    return ($head, $body, $keepalive);
}

sub wants_keepalive {
    my ($server, $request) = @_;

    my $keepalive = $server->{standin}{keepalive};
    return 0 if defined $keepalive && !$keepalive;

    my $connection = lc($request->header('Connection') // '');

    return $request->{version} eq 'HTTP/1.1' ? $connection ne 'close'
                                             : $connection eq 'keep-alive';
}

my %REASON = (
    200 => 'OK', 201 => 'Created', 204 => 'No Content', 302 => 'Found',
    400 => 'Bad Request', 401 => 'Unauthorized', 403 => 'Forbidden',
    404 => 'Not Found', 405 => 'Method Not Allowed', 409 => 'Conflict',
    413 => 'Request Entity Too Large', 429 => 'Too Many Requests',
    500 => 'Internal Server Error', 502 => 'Bad Gateway',
    503 => 'Service Unavailable', 504 => 'Gateway Timeout',
);

sub reason { return $REASON{$_[0]} // 'Status' }

sub http_date {
    my ($time) = @_;

    my @t = gmtime $time;
    my $day = (qw(Sun Mon Tue Wed Thu Fri Sat))[$t[6]];
    my $month = (qw(Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec))[$t[4]];

    return sprintf '%s, %02d %s %d %02d:%02d:%02d GMT', $day, $t[3], $month,
        $t[5] + 1900, @t[2, 1, 0];
}

1;
