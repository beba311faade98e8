package CdmStop::Ledger;

=head1 NAME

CdmStop::Ledger - random secrets, and the search for any part of them

=head1 SYNOPSIS

    my $ledger   = CdmStop::Ledger->new;
    my $password = $ledger->password;
    my $token    = $ledger->token(9120);          # "MII..." as Huawei's
    $ledger->add('a key', $bytes);                # a secret made elsewhere

    my @findings = $ledger->search($text, 'audit.jsonl');
    is("@findings", '', 'no secret there');

The search finds each secret, and each piece of it of 16 bytes, raw, in base64
(all alignments, both alphabets), in hex (both cases), URL-encoded and as JSON
and nginx escape it. Secrets shorter than 16 bytes are found whole, those
shorter than 8 not at all: a token of one byte is in every text.

How it is fast: any run of 16 bytes contains a run of 8 that begins at a
multiple of 8 of the text; the secrets are indexed by all their runs of 8, and
a hit is measured before it counts. Encodings are undone in the text, so that
the index holds a secret once. With the option apart => N it holds only what
begins at a multiple of N bytes, for many secrets: a piece is then found for
sure if it has N + 16 bytes.

=cut

use strict;
use warnings;

use MIME::Base64 qw(decode_base64);

use constant { STEP => 8, RUN => 16, LEAST => 8 };

my @ALPHABET = ('A' .. 'Z', 'a' .. 'z', '0' .. '9', '+', '/');
my @PASSWORD = (map { chr } 0x21 .. 0x7e);

sub new {
    my ($class, %opt) = @_;

    return bless { secrets => {}, random => undef, %opt }, $class;
}

# Random bytes of the system.

sub random_bytes {
    my ($self, $n) = @_;

    if (!$self->{random}) {
        open($self->{random}, '<:raw', '/dev/urandom')
            or die "/dev/urandom: $!\n";
    }

    my $got = read($self->{random}, my $bytes, $n);
    die "/dev/urandom: short read\n" if !defined $got || $got != $n;

    return $bytes;
}

# A token of $n bytes that looks like the CMS blobs of Huawei's IAM; register
# => 0 leaves it out of the ledger.

sub token {
    my ($self, $n, %opt) = @_;

    my $token = substr('MII', 0, $n);
    my $rest = $n - length $token;

    $token .= join('', map { $ALPHABET[$_ & 63] }
                       unpack('C*', $self->random_bytes($rest)))
        if $rest > 0;

    $self->add('token', $token) unless exists $opt{register} && !$opt{register};
    return $token;
}

# A password of printable ASCII; has quote and backslash in it, for these must
# be escaped in JSON.

sub password {
    my ($self, $n) = @_;

    $n //= 24;
    my $password = join '', map { $PASSWORD[$_ % @PASSWORD] }
                            unpack('C*', $self->random_bytes($n));
    substr($password, 3, 2) = '"\\' if $n >= 8;

    return $self->add('password', $password);
}

# A key of $n random bytes, as hex digits.

sub key {
    my ($self, $n) = @_;

    return $self->add('key', unpack('H*', $self->random_bytes($n // 32)));
}

# Registers a secret and returns it.

sub add {
    my ($self, $kind, $secret) = @_;

    if (length $secret >= LEAST && !exists $self->{secrets}{$secret}) {
        $self->{secrets}{$secret} = $kind;
        delete $self->{index};
    }

    return $secret;
}

sub secrets {
    my ($self) = @_;

    return keys %{$self->{secrets}};
}

# What a text may stand for: pairs of name and bytes. Encoded runs that make
# less than $least bytes are left out.

sub views {
    my ($text, $least) = @_;

    my @views = (['raw', $text]);

    if ($text =~ /%[0-9a-fA-F]{2}/) {
        push @views, ['URL-encoded',
                      $text =~ s/%([0-9a-fA-F]{2})/chr hex $1/ger];
    }

    push @views, ['escaped', unescape($text)] if $text =~ /\\/;

    my $digits = int(($least * 4 + 2) / 3);
    my @runs = $text =~ m{([A-Za-z0-9+/_-]{$digits,})}g;
    tr{-_}{+/} for @runs;

    for my $skip (@runs ? (0 .. 3) : ()) {
        push @views, ['base64', join "\0",
                      map { decode_base64(substr $_, $skip) } @runs];
    }

    $digits = $least * 2;
    @runs = $text =~ /([0-9a-fA-F]{$digits,})/g;

    for my $skip (@runs ? (0, 1) : ()) {
        push @views, ['hex', join "\0",
                      map { pack 'H*', substr $_, $skip } @runs];
    }

    return @views;
}

my %ESCAPED = (b => "\b", f => "\f", n => "\n", r => "\r", t => "\t");

# Undoes what JSON and nginx's log make of odd bytes.

sub unescape {
    my ($text) = @_;

    $text =~ s{\\(?:[xX]([0-9a-fA-F]{2})|u00([0-9a-fA-F]{2})|(.))}
              {defined $3 ? $ESCAPED{$3} // $3 : chr hex($1 // $2)}gesx;
    return $text;
}

# Indexes the runs of all secrets: run => number of the secret and offset in
# one integer; further places of a run are in "more".

sub index_secrets {
    my ($self) = @_;

    my %index = (secrets => [], runs => {}, more => {}, whole => []);
    my $runs = $index{runs};

    for my $secret (sort keys %{$self->{secrets}}) {
        if (length $secret < RUN) {
            push @{$index{whole}}, $secret;
            next;
        }

        my $place = @{$index{secrets}} << 24;
        push @{$index{secrets}}, $secret;

        my $apart = $self->{apart} // STEP;

        for my $at (grep { $_ % $apart < STEP } 0 .. length($secret) - STEP) {
            my $run = substr $secret, $at, STEP;

            if (exists $runs->{$run}) {
                my $more = $index{more}{$run} //= [];
                push @$more, $place + $at if @$more < 64;

            } else {
                $runs->{$run} = $place + $at;
            }
        }
    }

    return $self->{index} = \%index;
}

# Finds secrets in $text; returns one sentence for each, which does not show
# it.

sub search {
    my ($self, $text, $where) = @_;

    return () if !%{$self->{secrets}} || !defined $text || $text eq '';

    my $index = $self->{index} // $self->index_secrets;
    my $least = @{$index->{whole}} ? LEAST : RUN;
    my %found;

    for my $view (views($text, $least)) {
        my ($name, $bytes) = @$view;

        for my $secret (@{$index->{whole}}) {
            my $at = index $bytes, $secret;
            $self->note(\%found, $secret, $name, $at, length $secret)
                if $at >= 0;
        }

        $self->search_runs(\%found, $index, $name, \$bytes);
    }

    $where //= 'text';
    return map { "$where: $_" } sort values %found;
}

# Looks up each run of the text that begins at a multiple of its width.

sub search_runs {
    my ($self, $found, $index, $name, $text) = @_;

    my ($runs, $more) = @$index{qw(runs more)};
    my %measured;

    # in pieces, for unpack makes a list of 60 bytes for each run
    my $piece = 1 << 20;

    for (my $from = 0; $from < length $$text; $from += $piece) {
        my $at = $from - STEP;

        for my $run (unpack '(a' . STEP . ')*', substr $$text, $from, $piece) {
            $at += STEP;
            next unless exists $runs->{$run};

            for my $place ($runs->{$run}, @{$more->{$run} // []}) {
                # one match is measured once, and not at each of its runs
                my $start = $at - ($place & 0xffffff) . ':' . ($place >> 24);
                next if ($measured{$start} // -1) > $at;

                my $secret = $index->{secrets}[$place >> 24];
                my ($left, $right) = measure($secret, $place & 0xffffff,
                                             $text, $at);
                $measured{$start} = $at + $right;
                $self->note($found, $secret, $name, $at - $left, $left + $right)
                    if $left + $right >= RUN;
            }
        }
    }

    return;
}

# How far text and secret agree to the left and to the right of a place.

sub measure {
    my ($secret, $offset, $text, $at) = @_;

    my $before = $offset < $at ? $offset : $at;
    my $left = reverse(substr $secret, $offset - $before, $before)
             ^ reverse(substr $$text, $at - $before, $before);

    my $rest = length($secret) - $offset;
    $rest = length($$text) - $at if $rest > length($$text) - $at;
    my $right = substr($secret, $offset, $rest) ^ substr($$text, $at, $rest);

    return map { /\A(\0*)/ ? length $1 : 0 } $left, $right;
}

# Says what was found without showing it.

sub note {
    my ($self, $found, $secret, $name, $at, $length) = @_;

    my $kind = $self->{secrets}{$secret};
    $found->{"$kind $name"} //= "$kind ($name), $length bytes"
                                . ($name eq 'raw' ? " at offset $at" : '');

    return;
}

1;
