package CdmStop::Http;

=head1 NAME

CdmStop::Http - parse and build HTTP/1 messages, byte for byte

=head1 SYNOPSIS

    my $request  = CdmStop::Http::parse_request(\$buffer);
    my $response = CdmStop::Http::parse_response(\$buffer, eof => 1);
    my $bytes    = CdmStop::Http::build_request(method => 'PUT', target => '/x',
                                                headers => ['A' => 'b']);

The parsers take whole messages from the front of the buffer and return undef
while a message is incomplete. A message is a L<CdmStop::Http::Message> with
C<headers> as a list of pairs in wire order, C<body>, C<raw> (its exact bytes)
and, for requests, C<method>, C<target>, C<version>; for responses C<status>,
C<reason>, C<version> and C<interim>. What does not follow the grammar is kept
and named in C<malformed>, never repaired.

=cut

use strict;
use warnings;

# Takes one request from the front of $$buf.

sub parse_request {
    my ($buf) = @_;

    # empty lines before a request line are legal
    my $skip = $$buf =~ /\A((?:\r?\n)+)/ ? length $1 : 0;

    my $head = parse_head($buf, $skip) or return;
    my %m = (headers => $head->{headers}, malformed => $head->{malformed});

    if ($head->{line} =~ m{\A(\S+) (.*) (HTTP/\d\.\d)\z}s) {
        @m{qw(method target version)} = ($1, $2, $3);

    } else {
        @m{qw(method target version)} = (split(/ /, $head->{line}, 3),
                                         '', '', '');
        $m{malformed} = 'request line';
    }

    my $message = bless \%m, 'CdmStop::Http::Message';

    my $end = read_body($buf, $message, $head->{end}, 0);
    return unless defined $end;

    return cut($buf, $message, $skip, $end);
}

# Takes one response, with the interim ones before it, from the front of $$buf.
# head => 1: the answer to a HEAD; eof => 1: the peer has closed.

sub parse_response {
    my ($buf, %opt) = @_;

    my (@interim, $head, %m);
    my $at = 0;

    for (;;) {
        $head = parse_head($buf, $at) or return partial($buf, %opt);

        %m = (headers => $head->{headers}, malformed => $head->{malformed});

        if ($head->{line} =~ m{\A(HTTP/\d\.\d) (\d\d\d)(?: (.*))?\z}s) {
            @m{qw(version status reason)} = ($1, $2, $3 // '');

        } else {
            @m{qw(version status reason)} = ('', 0, '');
            $m{malformed} = 'status line';
        }

        last if $m{status} < 100 || $m{status} >= 200 || $m{status} == 101;

        push @interim, bless {%m}, 'CdmStop::Http::Message';
        $at = $head->{end};
    }

    $m{interim} = \@interim;
    my $message = bless \%m, 'CdmStop::Http::Message';

    if ($opt{head} || $m{status} == 204 || $m{status} == 304) {
        $m{body} = '';
        return cut($buf, $message, 0, $head->{end});
    }

    my $end = read_body($buf, $message, $head->{end}, 1);

    if (!defined $end) {
        return unless $opt{eof};

        # the body ends with the connection, which is legal without a length
        $m{malformed} = 'body shorter than announced' if $m{framing} ne 'close';
        $m{body} = substr($$buf, $head->{end});
        $end = length $$buf;
    }

    return cut($buf, $message, 0, $end);
}

# What is left when the peer closed before a whole head arrived.

sub partial {
    my ($buf, %opt) = @_;

    return if !$opt{eof} || $$buf eq '';

    my $message = bless {
        status => 0, reason => '', version => '', headers => [], body => $$buf,
        interim => [], malformed => 'no complete head', raw => $$buf
    }, 'CdmStop::Http::Message';

    $$buf = '';
    return $message;
}

# Splits the head that begins at $from; undef while it is incomplete.

sub parse_head {
    my ($buf, $from) = @_;

    pos($$buf) = $from;
    return unless $$buf =~ /\G(.*?)\r?\n\r?\n/gcs;

    my $end = pos($$buf);
    my ($line, @lines) = split /\r?\n/, $1;
    my (@headers, $malformed);

    for my $h (@lines) {
        if ($h =~ /\A([^:]*):[ \t]*(.*?)[ \t]*\z/s) {
            push @headers, [$1, $2];

        } else {
            push @headers, [$h, undef];
            $malformed = 'header line';
        }
    }

    return {
        line => $line // '', headers => \@headers, end => $end,
        malformed => $malformed
    };
}

# Reads the body that begins at $from into $m->{body}; returns where it ends,
# undef while it is incomplete.

sub read_body {
    my ($buf, $m, $from, $is_response) = @_;

    my $te = $m->header('Transfer-Encoding');
    my $length = $m->header('Content-Length');

    if (defined $te && $te =~ /chunked\s*\z/i) {
        $m->{framing} = 'chunked';
        return read_chunks($buf, $m, $from);
    }

    if (defined $length && $length =~ /\A(\d+)\z/) {
        $m->{framing} = 'length';
        return if length($$buf) - $from < $1;

        $m->{body} = substr($$buf, $from, $1);
        return $from + $1;
    }

    $m->{malformed} = 'content length' if defined $length;

    if ($is_response) {
        $m->{framing} = 'close';
        return;
    }

    $m->{framing} = 'none';
    $m->{body} = '';
    return $from;
}

sub read_chunks {
    my ($buf, $m, $at) = @_;

    my $body = '';

    for (;;) {
        pos($$buf) = $at;

        if ($$buf !~ /\G([0-9a-fA-F]+)[ \t]*(;[^\r\n]*)?\r?\n/gc) {
            return if index($$buf, "\n", $at) < 0;

            $m->{malformed} = 'chunk size';
            $m->{body} = $body;
            return length $$buf;
        }

        my ($size, $start) = (hex $1, pos($$buf));

        last if $size == 0 && ($at = $start);
        return if length($$buf) < $start + $size + 2;

        $body .= substr($$buf, $start, $size);
        $at = $start + $size;
        $at += substr($$buf, $at, 1) eq "\r" ? 2 : 1;
    }

    # trailer fields up to an empty line
    my @trailers;

    for (;;) {
        pos($$buf) = $at;
        return unless $$buf =~ /\G(.*?)\r?\n/gc;

        $at = pos($$buf);
        last if $1 eq '';
        push @trailers, [$1 =~ /\A([^:]*):[ \t]*(.*?)[ \t]*\z/s];
    }

    @$m{qw(body trailers)} = ($body, \@trailers);
    return $at;
}

sub cut {
    my ($buf, $message, $from, $end) = @_;

    $message->{raw} = substr($$buf, $from, $end - $from);
    substr($$buf, 0, $end) = '';

    return $message;
}

# Brings [n => v, ...], [[n, v], ...] or { n => v } into a list of pairs.

sub pairs {
    my ($headers) = @_;

    return () unless defined $headers;
    return map { [$_, $headers->{$_}] } sort keys %$headers
        if ref $headers eq 'HASH';
    return @$headers if @$headers && ref $headers->[0];

    my @pairs;
    for (my $i = 0; $i < @$headers; $i += 2) {
        push @pairs, [$headers->[$i], $headers->[$i + 1]];
    }

    return @pairs;
}

# Builds a request; a default header stands back where the caller names it.

sub build_request {
    my (%arg) = @_;

    my @headers = pairs($arg{headers});
    my %given = map { lc $_->[0] => 1 } @headers;
    my $version = $arg{version} // '1.1';
    my $body = $arg{body};
    my @default;

    push @default, ['Host', $arg{host} // 'localhost']
        unless $given{host} || $version eq '1.0' && !defined $arg{host};
    push @default, ['Connection', 'close']
        unless $given{connection} || $arg{keepalive};
    push @default, ['Content-Length', length $body]
        if defined $body && !$given{'content-length'}
        && !$given{'transfer-encoding'};

    return join("\r\n",
                ($arg{method} // 'GET') . ' ' . ($arg{target} // '/')
                . " HTTP/$version",
                map({ "$_->[0]: $_->[1]" } @default, @headers), '', '')
        . ($body // '');
}

sub chunked {
    my ($body, $size) = @_;

    my $out = '';
    for (my $i = 0; $i < length $body; $i += $size) {
        my $piece = substr($body, $i, $size);
        $out .= sprintf("%x\r\n%s\r\n", length $piece, $piece);
    }

    return $out . "0\r\n\r\n";
}


package CdmStop::Http::Message;

use JSON::PP ();

# The first value of a header, undef if it is absent.

sub header {
    my ($self, $name) = @_;

    return ($self->all($name))[0];
}

# All values of a header, in order.

sub all {
    my ($self, $name) = @_;

    return map { $_->[1] } grep { lc $_->[0] eq lc $name } @{$self->{headers}};
}

# The names of all headers, in order, in lower case.

sub names {
    my ($self) = @_;

    return map { lc $_->[0] } @{$self->{headers}};
}

# The body as JSON; dies if it is none.

sub json {
    my ($self) = @_;

    return JSON::PP->new->utf8->decode($self->{body});
}

# What to show a person: the head line and the size of the body.

sub summary {
    my ($self) = @_;

    return defined $self->{method}
        ? "$self->{method} $self->{target} $self->{version}"
        : "$self->{status} $self->{reason} ("
          . length($self->{body}) . ' bytes)';
}

1;
