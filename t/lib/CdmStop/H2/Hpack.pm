package CdmStop::H2::Hpack;

=head1 NAME

CdmStop::H2::Hpack - header compression of HTTP/2 (RFC 7541)

=head1 SYNOPSIS

    my $bytes   = CdmStop::H2::Hpack::encode([':method', 'PUT'], ['a', 'b']);
    my $decoder = CdmStop::H2::Hpack->new;
    my @headers = $decoder->decode($bytes);       # ([name, value], ...)

The encoder writes each field literally, never indexed, without Huffman: any
byte may be in a name or a value. The decoder knows the static and the dynamic
table and Huffman.

=cut

use strict;
use warnings;

# RFC 7541, appendix A, from index 1

my @STATIC = (
    [':authority', ''], [':method', 'GET'], [':method', 'POST'],
    [':path', '/'], [':path', '/index.html'], [':scheme', 'http'],
    [':scheme', 'https'], (map { [':status', $_] }
                           qw(200 204 206 304 400 404 500)),
    ['accept-charset', ''], ['accept-encoding', 'gzip, deflate'],
    (map { [$_, ''] } qw(
        accept-language accept-ranges accept access-control-allow-origin age
        allow authorization cache-control content-disposition content-encoding
        content-language content-length content-location content-range
        content-type cookie date etag expect expires from host if-match
        if-modified-since if-none-match if-range if-unmodified-since
        last-modified link location max-forwards proxy-authenticate
        proxy-authorization range referer refresh retry-after server set-cookie
        strict-transport-security transfer-encoding user-agent vary via
        www-authenticate)),
);

# RFC 7541, appendix B: the lengths of the codes of 0 .. 255. The codes are
# canonical: counted up in the order of length and symbol.

my @LENGTH = (
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
);

my %SYMBOL = huffman_codes();

# The codes as strings of 0 and 1: code => symbol.

sub huffman_codes {
    my ($code, $length, %symbol) = (-1, 5);

    for my $s (sort { $LENGTH[$a] <=> $LENGTH[$b] || $a <=> $b } 0 .. 255) {
        $code = ($code + 1) << ($LENGTH[$s] - $length);
        $length = $LENGTH[$s];
        $symbol{sprintf '%0*b', $length, $code} = chr $s;
    }

    return %symbol;
}

sub new {
    my ($class) = @_;

    return bless { dynamic => [], size => 0, limit => 4096 }, $class;
}

sub encode {
    my (@headers) = @_;

    return join '', map { encode_field(@$_) } @headers;
}

# A literal field that is never indexed.

sub encode_field {
    my ($name, $value) = @_;

    return "\x10" . encode_string($name) . encode_string($value);
}

sub encode_string {
    my ($bytes) = @_;

    return encode_integer(length $bytes, 7, 0) . $bytes;
}

sub encode_integer {
    my ($value, $bits, $flags) = @_;

    my $max = (1 << $bits) - 1;
    return chr($flags | $value) if $value < $max;

    my $out = chr($flags | $max);
    $value -= $max;

    while ($value >= 128) {
        $out .= chr(($value & 127) | 128);
        $value >>= 7;
    }

    return $out . chr $value;
}

# Decodes a whole header block; dies if it is broken.

sub decode {
    my ($self, $block) = @_;

    my @headers;
    my $at = 0;

    while ($at < length $block) {
        my $first = ord substr $block, $at, 1;

        if ($first & 0x80) {
            my $index = decode_integer($block, \$at, 7);
            push @headers, [@{$self->entry($index)}];

        } elsif ($first & 0x40) {
            my $field = $self->literal($block, \$at, 6);
            $self->insert($field);
            push @headers, [@$field];

        } elsif ($first & 0x20) {
            $self->{limit} = decode_integer($block, \$at, 5);
            $self->evict;

        } else {
            push @headers, $self->literal($block, \$at, 4);
        }
    }

    return @headers;
}

sub literal {
    my ($self, $block, $at, $bits) = @_;

    my $index = decode_integer($block, $at, $bits);
    my $name = $index ? $self->entry($index)->[0] : decode_string($block, $at);

    return [$name, decode_string($block, $at)];
}

sub entry {
    my ($self, $index) = @_;

    my $entry = $index <= @STATIC ? $STATIC[$index - 1]
                                  : $self->{dynamic}[$index - @STATIC - 1];

    die "hpack: no entry $index\n" if $index == 0 || !$entry;
    return $entry;
}

sub insert {
    my ($self, $field) = @_;

    unshift @{$self->{dynamic}}, $field;
    $self->{size} += field_size($field);
    $self->evict;

    return;
}

sub evict {
    my ($self) = @_;

    while ($self->{size} > $self->{limit}) {
        $self->{size} -= field_size(pop @{$self->{dynamic}});
    }

    return;
}

sub field_size { return 32 + length($_[0][0]) + length $_[0][1] }

sub decode_integer {
    my ($block, $at, $bits) = @_;

    my $max = (1 << $bits) - 1;
    my $value = ord(substr $block, $$at, 1) & $max;
    $$at++;

    return $value if $value < $max;

    for (my $shift = 0; ; $shift += 7) {
        die "hpack: integer is cut\n" if $$at >= length $block;

        my $byte = ord substr $block, $$at++, 1;
        $value += ($byte & 127) << $shift;
        return $value unless $byte & 128;
    }
}

sub decode_string {
    my ($block, $at) = @_;

    die "hpack: string is cut\n" if $$at >= length $block;

    my $is_huffman = ord(substr $block, $$at, 1) & 0x80;
    my $length = decode_integer($block, $at, 7);

    die "hpack: string is cut\n" if $$at + $length > length $block;

    my $bytes = substr $block, $$at, $length;
    $$at += $length;

    return $is_huffman ? decode_huffman($bytes) : $bytes;
}

sub decode_huffman {
    my ($bytes) = @_;

    my ($out, $code) = ('', '');

    for my $bit (split //, unpack 'B*', $bytes) {
        $code .= $bit;

        if (defined(my $symbol = $SYMBOL{$code})) {
            $out .= $symbol;
            $code = '';

        } elsif (length $code > 30) {
            die "hpack: no Huffman code\n";
        }
    }

    die "hpack: padding\n" if $code !~ /\A1{0,7}\z/;
    return $out;
}

1;
