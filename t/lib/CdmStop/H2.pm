package CdmStop::H2;

=head1 NAME

CdmStop::H2 - a small HTTP/2 client that can also send what is forbidden

=head1 SYNOPSIS

    my $c = CdmStop::H2->new(port => $port);      # preface and SETTINGS sent
    my $id = $c->request(headers => [[':method', 'PUT'], ...], body => 'x',
                         trailers => [['x-auth-token', 'y']]);
    my $r = $c->response($id);        # status, headers, body, trailers, reset
    $r->header('x-request-id');
    $c->rst($id, 8);                              # CANCEL
    $c->frame(1, 0x5, $id, $block);               # any frame
    my @r = $c->collect(@ids);                    # many streams in parallel

A response has C<reset> (the error code) if the stream was reset, C<refused> if
the connection ended before it was complete. C<goaway> of the connection is the
code of a GOAWAY, C<eof> tells that the peer closed.

=cut

use strict;
use warnings;

use Time::HiRes qw(time);

use CdmStop::Client;
use CdmStop::H2::Hpack;
use CdmStop::Http;

use constant {
    DATA => 0, HEADERS => 1, RST_STREAM => 3, SETTINGS => 4, PING => 6,
    GOAWAY => 7, WINDOW_UPDATE => 8, CONTINUATION => 9,
    END_STREAM => 1, END_HEADERS => 4, ACK => 1, PADDED => 8, PRIORITY => 32,
    FRAME_SIZE => 16_384,
};

sub new {
    my ($class, %opt) = @_;

    my $self = bless {
        client => CdmStop::Client->connect(%opt), next_id => 1, streams => {},
        frames => [], hpack => CdmStop::H2::Hpack->new,
        timeout => $opt{timeout} // 30, window => 65_535, initial => 65_535,
        in => '', stream_window => {}
    }, $class;

    # the client must not look for HTTP/1 in what it receives
    $self->{client}{raw_mode} = 1;

    my $settings = pack('nN', 4, 1 << 30) . ($opt{settings} // '');

    $self->send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    $self->frame(SETTINGS, 0, 0, $settings);
    $self->frame(WINDOW_UPDATE, 0, 0, pack 'N', 1 << 30);

    return $self;
}

sub send {
    my ($self, $bytes) = @_;

    $self->{client}->send($bytes);
    return $self;
}

# Bytes of one frame.

sub frame_bytes {
    my ($type, $flags, $stream, $payload) = @_;

    return substr(pack('N', length $payload), 1)
        . pack('CCN', $type, $flags, $stream) . $payload;
}

sub frame {
    my ($self, $type, $flags, $stream, $payload) = @_;

    return $self->send(frame_bytes($type, $flags, $stream, $payload));
}

# Sends a request; returns the number of its stream. Arguments: headers (in
# order, as they are), body, trailers, end => 0 (leave the stream open), block
# (a ready header block instead of headers).

sub request {
    my ($self, %arg) = @_;

    my $id = $arg{stream} // $self->{next_id};
    $self->{next_id} = $id + 2;

    my $more = defined $arg{body} || $arg{trailers}
               || exists $arg{end} && !$arg{end};

    $self->send_headers($id, $arg{block}
        // CdmStop::H2::Hpack::encode(CdmStop::Http::pairs($arg{headers})),
        !$more);
    $self->{streams}{$id} //= new_stream($id);

    $self->data($id, $arg{body}, end => !$arg{trailers}
                && (!exists $arg{end} || $arg{end})) if defined $arg{body};
    $self->send_headers($id, CdmStop::H2::Hpack::encode(
        CdmStop::Http::pairs($arg{trailers})), 1) if $arg{trailers};

    return $id;
}

sub new_stream {
    my ($id) = @_;

    return bless { id => $id, headers => [], body => '', status => 0 },
                 'CdmStop::Http::Message';
}

# A header block, in as many frames as it needs.

sub send_headers {
    my ($self, $id, $block, $end) = @_;

    my $type = HEADERS;
    my $flags = $end ? END_STREAM : 0;

    do {
        my $piece = substr $block, 0, FRAME_SIZE, '';
        $flags |= END_HEADERS if $block eq '';
        $self->frame($type, $flags, $id, $piece);
        ($type, $flags) = (CONTINUATION, 0);
    } while ($block ne '');

    return $self;
}

# Body bytes within the windows of the peer; end => 1 ends the stream.

sub data {
    my ($self, $id, $bytes, %opt) = @_;

    $self->{stream_window}{$id} //= $self->{initial};

    for (;;) {
        my $room = min(FRAME_SIZE, $self->{window},
                       $self->{stream_window}{$id});
        my $whole = length $bytes <= $room;

        if ($room > 0 || $whole) {
            my $piece = substr $bytes, 0, $room > 0 ? $room : 0, '';
            my $flags = $whole && $opt{end} ? END_STREAM : 0;
            $self->frame(DATA, $flags, $id, $piece);
            $self->{window} -= length $piece;
            $self->{stream_window}{$id} -= length $piece;
        }

        last if $whole;
        last if $self->{streams}{$id} && is_complete($self->{streams}{$id});
        $self->read_frames($room > 0 ? 0 : 1);
        last if $self->{eof} || $self->{client}{write_error};
    }

    return $self;
}

sub min {
    my ($least, @more) = @_;

    for (@more) { $least = $_ if $_ < $least }
    return $least;
}

sub rst {
    my ($self, $id, $code) = @_;

    return $self->frame(RST_STREAM, 0, $id, pack 'N', $code // 8);
}

# Waits for the response of a stream. One that did not come in time has
# timed_out.

sub response {
    my ($self, $id) = @_;

    return ($self->collect($id))[0];
}

sub collect {
    my ($self, @ids) = @_;

    my $deadline = time + $self->{timeout};

    while (!$self->{eof}
           && grep { !is_complete($self->{streams}{$_}) } @ids)
    {
        last if time > $deadline;
        $self->read_frames($deadline - time);
    }

    for my $s (map { $self->{streams}{$_} } @ids) {
        next if is_complete($s);
        $s->{$self->{eof} ? 'refused' : 'timed_out'} = 1;
    }

    return map { $self->{streams}{$_} } @ids;
}

sub is_complete {
    my ($stream) = @_;

    return $stream->{ended} || defined $stream->{reset};
}

# Waits until the peer closed the connection; false if it did not.

sub wait_closed {
    my ($self) = @_;

    my $deadline = time + $self->{timeout};

    while (!$self->{eof} && time < $deadline) {
        $self->read_frames($deadline - time);
    }

    return $self->{eof};
}

# Reads what arrives within some seconds, at most once, and handles the frames.

sub read_frames {
    my ($self, $seconds) = @_;

    my $client = $self->{client};
    return $self->{eof} = 1 unless $client->{sock};

    $client->flush;

    my ($r, $w) = ('', '');
    vec($r, fileno $client->{sock}, 1) = 1;
    $w = $r if length $client->{out};
    select $r, $w, undef, $seconds > 0 ? $seconds : 0;

    $client->flush;
    $client->read_some;
    $self->{in} .= $client->{in};
    $client->{in} = '';

    $self->handle_frames;
    $self->{eof} = 1 if $client->{eof};

    return;
}

sub handle_frames {
    my ($self) = @_;

    while (length $self->{in} >= 9) {
        my ($high, $low, $type, $flags, $id) = unpack 'CnCCN', $self->{in};
        my $length = ($high << 16) + $low;
        last if length $self->{in} < 9 + $length;

        my $payload = substr $self->{in}, 9, $length;
        substr($self->{in}, 0, 9 + $length) = '';

        push @{$self->{frames}}, { type => $type, flags => $flags,
                                   stream => $id, length => $length };
        $self->handle_frame($type, $flags, $id, $payload);
    }

    return;
}

sub handle_frame {
    my ($self, $type, $flags, $id, $payload) = @_;

    if ($type == DATA) {
        $payload = unpad($payload, $flags);
        my $s = $self->{streams}{$id} //= new_stream($id);
        $s->{body} .= $payload;
        $s->{ended} = 1 if $flags & END_STREAM;
        $self->keep($payload);

    } elsif ($type == HEADERS || $type == CONTINUATION) {
        $self->handle_headers($type, $flags, $id, $payload);

    } elsif ($type == RST_STREAM) {
        my $s = $self->{streams}{$id} //= new_stream($id);
        $s->{reset} = unpack 'N', $payload;

    } elsif ($type == SETTINGS && !($flags & ACK)) {
        $self->handle_settings($payload);

    } elsif ($type == PING && !($flags & ACK)) {
        $self->frame(PING, ACK, 0, $payload);

    } elsif ($type == GOAWAY) {
        @$self{qw(goaway_last goaway)} = unpack 'NN', $payload;

    } elsif ($type == WINDOW_UPDATE) {
        my $more = unpack 'N', $payload;
        if ($id) { ($self->{stream_window}{$id} //= $self->{initial}) += $more }
        else { $self->{window} += $more }
    }

    return;
}

sub handle_settings {
    my ($self, $payload) = @_;

    while ($payload =~ s/\A(..)(....)//s) {
        my ($key, $value) = (unpack('n', $1), unpack('N', $2));
        $self->{settings}{$key} = $value;
        next if $key != 4;

        $_ += $value - $self->{initial} for values %{$self->{stream_window}};
        $self->{initial} = $value;
    }

    return $self->frame(SETTINGS, ACK, 0, '');
}

sub handle_headers {
    my ($self, $type, $flags, $id, $payload) = @_;

    my $s = $self->{streams}{$id} //= new_stream($id);

    if ($type == HEADERS) {
        $payload = unpad($payload, $flags);
        substr($payload, 0, 5) = '' if $flags & PRIORITY;
        $s->{last_headers} = $flags & END_STREAM;
        $s->{block} = '';
    }

    $s->{block} .= $payload;
    return unless $flags & END_HEADERS;

    my @headers = $self->{hpack}->decode(delete $s->{block});
    $self->keep(join "\n", map { "$_->[0]: $_->[1]" } @headers);

    my ($status) = map { $_->[1] } grep { $_->[0] eq ':status' } @headers;

    if (!defined $status) {
        push @{$s->{trailers}}, @headers;

    } elsif ($status < 200) {
        push @{$s->{interim}}, bless {
            status => $status, headers => \@headers
        }, 'CdmStop::Http::Message';

    } else {
        $s->{status} = $status;
        $s->{headers} = [grep { $_->[0] ne ':status' } @headers];
    }

    $s->{ended} = 1 if delete $s->{last_headers};
    return;
}

sub keep {
    my ($self, $bytes) = @_;

    my $record = $self->{client}{record} or return;
    $record->($bytes);

    return;
}

sub unpad {
    my ($payload, $flags) = @_;

    return $payload unless $flags & PADDED;

    my $pad = ord substr $payload, 0, 1, '';
    return substr $payload, 0, length($payload) - $pad;
}

sub close { return $_[0]{client}->close }

# RST of the whole connection.

sub reset { return $_[0]{client}->reset }

1;
