package CdmStop::Chain;

=head1 NAME

CdmStop::Chain - checks the chain of records in files, without the module

=head1 SYNOPSIS

    my $chain = CdmStop::Chain->new(key => $key, public => $raw_32_bytes);
    $chain->add('audit.jsonl.1', $bytes);
    $chain->add('audit.jsonl', $bytes);
    my @troubles = $chain->troubles;        # empty: all is whole
    my @records = $chain->records;          # decoded, in order of files
    my @open = $chain->open;                # intents without outcome
    my @torn = $chain->torn;                # lines that are no record

It is written by the description of the format, not by the module: one chain
for each id, numbers without a gap from 1 on (or from the first on, with
C<partial>), C<prev> and C<hash> as they must be, pieces of lines told by the
record behind them. Without key it takes plain SHA-256; C<keys> are several, of
which undef is none.

=cut

use strict;
use warnings;

use Digest::SHA qw(hmac_sha256_hex sha256_hex);
use JSON::PP ();

my $JSON = JSON::PP->new->utf8;

sub new {
    my ($class, %opt) = @_;

    return bless {
        keys => [$opt{key}], %opt, troubles => [], records => [], torn => [],
        chains => {},
    }, $class;
}

sub trouble {
    my ($self, $text) = @_;

    push @{$self->{troubles}}, $text;
    return;
}

# Files in any order: records are put in order of their numbers at the end.

sub add {
    my ($self, $name, $bytes) = @_;

    my $number = 0;
    my $torn = 0;

    for my $line (split /\n/, $bytes) {
        $number++;

        if ($line =~ /\A\{"v":1,"chain":"\w{16}".*"hash":"\w{64}"\}\z/
            && (my $record = eval { $JSON->decode($line) }))
        {
            push @{$self->{chains}{$record->{chain}}}, {
                where => "$name:$number", line => $line, before => $torn,
                record => $record };
            push @{$self->{records}}, $record;
            $torn = 0;

        } else {
            push @{$self->{torn}}, "$name:$number";
            $torn += length $line;
        }
    }

    $self->trouble("$name: no line feed at the end")
        if length $bytes && $bytes !~ /\n\z/ && !$self->{unended};
    $self->{torn_at_end}{$name} = $torn if $torn;

    return $self;
}

sub finish {
    my ($self) = @_;

    return if $self->{finished}++;

    $self->check_chain($_) for sort keys %{$self->{chains}};

    return;
}

sub check_chain {
    my ($self, $id) = @_;

    my ($seq, $hash) = (0, '0' x 64);

    for my $entry (sort { $a->{record}{seq} <=> $b->{record}{seq} }
                   @{$self->{chains}{$id}})
    {
        my ($record, $where) = @{$entry}{qw(record where)};

        if ($seq == 0 && $record->{seq} > 1 && $self->{partial}) {
            ($seq, $hash) = ($record->{seq} - 1, $record->{prev});
            $self->{before}{$id} = "$id:$seq:$hash";
        }

        $self->trouble("$where: seq $record->{seq} behind $seq")
            if $record->{seq} != $seq + 1;
        $self->trouble("$where: prev is not the hash of the record before")
            if $record->{prev} ne $hash;

        my $content = $entry->{line} =~ s/,"hash":"\w{64}"\}\z//r;
        my $text = pack('H*', $record->{prev}) . $content;
        $self->trouble("$where: the hash is wrong")
            if !grep { $record->{hash} eq (defined $_
                           ? hmac_sha256_hex($text, $_) : sha256_hex($text)) }
                    @{ $self->{keys} };

        my $told = $record->{torn} // 0;
        $self->trouble("$where: $entry->{before} bytes are torn, $told told")
            if $entry->{before} && $told < $entry->{before};

        ($seq, $hash) = @{$record}{qw(seq hash)};
    }

    $self->{head}{$id} = "$seq:$hash";

    return;
}

sub troubles {
    my ($self) = @_;

    $self->finish;
    return @{$self->{troubles}};
}

sub records { return @{$_[0]{records}} }

sub torn { return @{$_[0]{torn}} }

sub ids {
    my @ids = sort keys %{$_[0]{chains}};

    return @ids;
}

# The last record of each chain, and what comes before the first ones of those
# that are not there from their begin: as cdm-stop-audit has them.

sub heads {
    my ($self) = @_;

    $self->finish;
    return %{$self->{head} // {}};
}

sub before {
    my ($self) = @_;

    $self->finish;
    return map { $self->{before}{$_} } sort keys %{$self->{before} // {}};
}

# Ids of requests that have an intent and nothing behind it.

sub open {
    my ($self) = @_;

    my %open;

    for my $record ($self->records) {
        my $id = $record->{request_id} // next;
        $open{$id} += $record->{stage} eq 'intent' ? 1 : -1
            if $record->{stage} =~ /\A(?:intent|outcome)\z/;
    }

    my @open = grep { $open{$_} > 0 } sort keys %open;

    return @open;
}

1;
