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

The search knows each secret raw, in base64 (all three alignments, both
alphabets), in hex (both cases), URL-encoded and as JSON and nginx escape it,
and finds any run of 16 bytes out of any of these (of hex: 32 digits). Secrets
shorter than 16 bytes are found whole.

How it is fast: any run of 16 bytes contains a run of 8 that begins at a
multiple of 8 of the text; the secrets are indexed by all their runs of 8, and
a hit is measured before it counts.

=cut

use strict;
use warnings;

use JSON::PP ();
use MIME::Base64 qw(encode_base64);

use constant { STEP => 8, RUN => 16 };

my @ALPHABET = ('A' .. 'Z', 'a' .. 'z', '0' .. '9', '+', '/');
my @PASSWORD = (map { chr } 0x21 .. 0x7e);

sub new {
    my ($class) = @_;

    return bless { secrets => {}, random => undef }, $class;
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

    if (length $secret && !exists $self->{secrets}{$secret}) {
        $self->{secrets}{$secret} = $kind;
        delete $self->{index};
    }

    return $secret;
}

sub secrets {
    my ($self) = @_;

    return keys %{$self->{secrets}};
}

# The forms of a secret that are searched: name => bytes.

sub forms {
    my ($secret) = @_;

    my %form = (raw => $secret, hex => unpack('H*', $secret));

    ($form{url} = $secret)
        =~ s/([^A-Za-z0-9._~-])/sprintf '%%%02X', ord $1/ge;
    ($form{'url, lower case'} = $secret)
        =~ s/([^A-Za-z0-9._~-])/sprintf '%%%02x', ord $1/ge;
    ($form{nginx} = $secret)
        =~ s/(["\\\x00-\x1f\x7f-\xff])/sprintf '\\x%02X', ord $1/ge;

    ($form{json} = JSON::PP->new->latin1->allow_nonref->encode($secret))
        =~ s/\A"(.*)"\z/$1/s;

    # with 0, 1 and 2 bytes before it; characters that mix in foreign bits go
    for my $before (0 .. 2) {
        my $b64 = encode_base64('x' x $before . $secret, '');
        $b64 =~ s/=+\z//;
        chop $b64 if (length($secret) + $before) % 3;
        $form{"base64 after $before"} = substr($b64, (0, 2, 3)[$before]);
    }

    for my $name (keys %form) {
        delete $form{$name} if $name ne 'raw' && $form{$name} eq $secret;
    }

    return \%form;
}

# Runs are compared with the two base64 alphabets made one.

sub normal {
    my ($bytes) = @_;

    $bytes =~ tr{-_}{+/};
    return $bytes;
}

# Indexes all runs of all forms: run => [number of the form, offset, ...].

sub index_secrets {
    my ($self) = @_;

    my %index = (forms => [], runs => {}, hex => {}, whole => []);

    for my $secret (sort keys %{$self->{secrets}}) {
        my $kind = $self->{secrets}{$secret};
        my $forms = forms($secret);

        for my $name (sort keys %$forms) {
            my $text = $name eq 'hex' ? $forms->{$name} : normal($forms->{$name});
            my $is_hex = $name eq 'hex';
            my ($runs, $width) = $is_hex ? ($index{hex}, 2 * STEP)
                                         : ($index{runs}, STEP);
            my $form = { kind => $kind, name => $name, text => $text,
                         run => $is_hex ? 2 * RUN : RUN };

            if (length $secret < RUN || length $text < $form->{run}) {
                push @{$index{whole}}, $form;
                next;
            }

            push @{$index{forms}}, $form;
            my $number = $#{$index{forms}};

            for my $at (0 .. length($text) - $width) {
                push @{$runs->{substr $text, $at, $width}}, $number, $at;
            }
        }
    }

    return $self->{index} = \%index;
}

# Finds secrets in $text; returns one sentence for each form found.

sub search {
    my ($self, $text, $where) = @_;

    return () if !%{$self->{secrets}} || !defined $text || $text eq '';

    my $index = $self->{index} // $self->index_secrets;

    my $normal = normal($text);
    my $lower = lc $text;
    my %found;

    for my $form (@{$index->{whole}}) {
        my $in = $form->{name} eq 'hex' ? \$lower : \$normal;
        my $at = index $$in, $form->{text};
        note_finding(\%found, $form, $at, length $form->{text}) if $at >= 0;
    }

    search_runs(\%found, $index, $index->{runs}, \$normal, STEP);
    search_runs(\%found, $index, $index->{hex}, \$lower, 2 * STEP);

    $where //= 'text';
    return map { "$where: $_" } sort values %found;
}

# Looks up each run of the text that begins at a multiple of its width.

sub search_runs {
    my ($found, $index, $runs, $text, $width) = @_;

    return unless %$runs;

    # in pieces, for unpack makes a list of 60 bytes for each run
    my $piece = 1 << 20;

    for (my $from = 0; $from < length $$text; $from += $piece) {
        my $at = $from;

        for my $run (unpack "(a$width)*", substr($$text, $from, $piece)) {
            my $hits = $runs->{$run} // [];

            for (my $i = 0; $i < @$hits; $i += 2) {
                measure($found, $index->{forms}[$hits->[$i]], $hits->[$i + 1],
                        $text, $at);
            }

            $at += $width;
        }
    }

    return;
}

# How far text and secret agree around a hit: noted from the length of a run.

sub measure {
    my ($found, $form, $offset, $text, $at) = @_;

    my ($left, $right) = (0, 0);

    $left++ while $left < $offset && $left < $at
        && substr($form->{text}, $offset - $left - 1, 1)
           eq substr($$text, $at - $left - 1, 1);

    $right++ while $offset + $right < length $form->{text}
        && $at + $right < length $$text
        && substr($form->{text}, $offset + $right, 1)
           eq substr($$text, $at + $right, 1);

    note_finding($found, $form, $at - $left, $left + $right)
        if $left + $right >= $form->{run};

    return;
}

# Says what was found without showing it.

sub note_finding {
    my ($found, $form, $at, $length) = @_;

    $found->{"$form->{kind} $form->{name}"} //=
        "$form->{kind} ($form->{name}), $length bytes at offset $at";

    return;
}

1;
