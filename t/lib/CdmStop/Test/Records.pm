package CdmStop::Test::Records;

=head1 NAME

CdmStop::Test::Records - the part of CdmStop::Test that reads JSON lines

=head1 SYNOPSIS

    my @records = $t->records('audit.jsonl');            # strict, or dies
    my @two     = $t->wait_records('audit.jsonl', 2);    # bounded wait
    my ($r)     = grep { $_->{stage} eq 'refused' } @records;
    my @new     = $t->new_records('audit.jsonl');        # since the last call

A line must be valid UTF-8 without control characters, one JSON object of which
no key is there twice, and end with a line feed. The error names file and line.

C<done> asks for the chains of all records in all files of the test, twice: by
L<CdmStop::Chain>, and by cdm-stop-audit itself, which must find the same
records, heads and open intents. A test that cuts, copies or deletes such files
says C<damaged_records>, with the kinds of findings that the tool must have, in
their order; one with C<cdm_stop_audit_key> tells the keys by C<audit_key>.

=cut

use strict;
use warnings;

use Encode ();
use JSON::PP ();

use CdmStop::Chain;
use CdmStop::Verifier;

my $JSON = JSON::PP->new;

sub records {
    my ($self, $file) = @_;

    my $path = $self->path($file // 'audit.jsonl');
    return () unless -e $path;

    return parse_lines($self->read($path), $path);
}

# Those that were written since the last call, for tests that make many.

sub new_records {
    my ($self, $file) = @_;

    $file //= 'audit.jsonl';
    my $path = $self->path($file);
    my $bytes = -e $path ? $self->read($path) : '';
    my $from = $self->{records_read}{$file} // 0;
    $self->{records_read}{$file} = length $bytes;

    return parse_lines(substr($bytes, $from), $path);
}

# Decodes the lines of a file; dies at the first that is no record.

sub parse_lines {
    my ($bytes, $name) = @_;

    return () if $bytes eq '';

    my @lines = split /\n/, $bytes, -1;
    my $rest = pop @lines;
    die "$name:" . (@lines + 1) . ": no line feed at the end\n" if $rest ne '';

    my $number = 0;
    return map { parse_line($_, "$name:" . ++$number) } @lines;
}

sub parse_line {
    my ($line, $where) = @_;

    die "$where: empty line\n" if $line eq '';
    die "$where: control character\n" if $line =~ /[\x00-\x1f\x7f]/;

    my $text = eval {
        Encode::decode('UTF-8', my $copy = $line, Encode::FB_CROAK);
    } // die "$where: not valid UTF-8\n";

    my $record = eval { $JSON->decode($text) };
    die "$where: no JSON: $@" if $@;
    die "$where: no JSON object\n" if ref $record ne 'HASH';

    my $twice = repeated_key($text);
    die "$where: key \"$twice\" twice\n" if defined $twice;

    return $record;
}

# A string with the colon that makes it a key, a bracket, or what is between.

my $TOKEN = qr/("(?:[^"\\]|\\.)*")(\s*:)?|([{\[])|([}\]])|[^"{}\[\]]+/s;

# The first key that an object of a valid JSON text has twice.

sub repeated_key {
    my ($text) = @_;

    my @open;

    while ($text =~ /\G$TOKEN/g) {
        if ($3) {
            push @open, {};

        } elsif ($4) {
            pop @open;

        } elsif ($2) {
            my $key = JSON::PP->new->allow_nonref->decode($1);
            return $key if $open[-1]{$key}++;
        }
    }

    return;
}

# Waits until a file has $n records, or until a sub is true for them.

sub wait_records {
    my ($self, $file, $until, %opt) = @_;

    my @records;
    my $enough = ref $until ? $until : sub { @_ >= $until };

    $self->wait_for(sub {
        my $path = $self->path($file);

        # the last line may be on its way
        my $bytes = -e $path ? $self->read($path) : '';
        $bytes =~ s/[^\n]+\z//;
        @records = parse_lines($bytes, $path);

        return $enough->(@records);
    }, what => 'records in ' . $file . (ref $until ? '' : " ($until)"), %opt);

    return @records;
}

sub damaged_records {
    my ($self, @kinds) = @_;

    $self->{damaged_records} = \@kinds;
    return;
}

sub audit_key {
    my ($self, @keys) = @_;

    push @{$self->{audit_keys}}, @keys;
    return;
}

# What is wrong with the chains of all records that the test left behind. Of
# files with other lines, as the error log, only the records count.

sub chain_findings {
    my ($self) = @_;

    my $damaged = $self->{damaged_records};
    my @keys = @{ $self->{audit_keys} // [] };
    my $chain = CdmStop::Chain->new(keys => [undef, @keys], partial => 1,
                                    unended => 1);
    my $verifier = CdmStop::Verifier->new(
        keys => \@keys, map { $_ => $self->{$_} } grep { $self->{$_} } 'tool');

    for my $file ($self->files_to_search) {
        next if -s $file > 200_000_000 || $file =~ /\.(?:state|lock)\z/;

        my $bytes = $self->read($file);
        next if index($bytes, '{"v":1,"chain":"') < 0;

        $bytes = join '', grep { /\A\{"v":1,"chain":".*\}\n\z/ }
                          split /^/, $bytes if $file !~ /\.jsonl[.\w]*\z/;

        my $name = $file =~ s{\A\Q$self->{dir}\E/}{}r;
        $chain->add($name, $bytes);
        $verifier->add($name, $bytes);
    }

    return $verifier->findings($chain, @$damaged) if $damaged;
    return ($chain->troubles, $verifier->findings($chain));
}

# Records of one request: stage => record.

sub records_of {
    my ($self, $file, $request_id) = @_;

    return { map { $_->{stage} => $_ }
             grep { ($_->{request_id} // '') eq $request_id }
             $self->records($file) };
}

1;
