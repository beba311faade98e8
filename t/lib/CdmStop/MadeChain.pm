package CdmStop::MadeChain;

# A chain of records as the module writes it, made without it.

use strict;
use warnings;

use Digest::SHA qw(hmac_sha256_hex sha256_hex sha256);
use File::Temp qw(tempdir);
use MIME::Base64 qw(encode_base64 decode_base64);
use POSIX qw(strftime);

=head1 NAME

CdmStop::MadeChain - records of an audit chain, for tests of the verifier

=head1 SYNOPSIS

    my $chain = CdmStop::MadeChain->new(key => 'k' x 32);
    $chain->stop(job_name => 'etl_1');
    $chain->checkpoint($private_key_file);
    print $chain->lines;

=head1 METHODS

=over

=item new(key => STRING, id => HEX, time => SECONDS)

An empty chain; without a key it is one of SHA-256.

=item add(STAGE, TEXT, torn => BYTES)

Appends a record with these members, as JSON text that begins with a comma.
Returns the line.

=item stop(FIELD => VALUE...)

An intent and its outcome, or the intent alone with C<< open => 1 >>.
Returns the request id.

=item checkpoint(FILE)

A checkpoint that is signed with the Ed25519 private key in FILE.

=item keypair()

Makes a key pair; returns the names of the private and public key's files.

=item tick(SECONDS)

Moves the clock.

=item lines

All lines, each with its line feed.

=item head

C<SEQ:HASH> of the last record.

=back

=cut

my $dir = tempdir('cdm-stop-chain-XXXXXX', TMPDIR => 1, CLEANUP => 1);
my $files = 0;


sub new {
    my ($class, %opt) = @_;

    return bless {
        id => '0123456789abcdef', time => 1_790_000_000, seq => 0,
        hash => '0' x 64, lines => [], requests => 0, %opt,
    }, $class;
}


sub add {
    my ($self, $stage, $text, %opt) = @_;

    $self->{seq}++;

    my $torn = defined $opt{torn} ? ",\"torn\":$opt{torn}" : '';
    my $line = "{\"v\":1,\"chain\":\"$self->{id}\",\"seq\":$self->{seq},"
        . "\"prev\":\"$self->{hash}\"$torn,\"stage\":\"$stage\",\"time\":\""
        . $self->now . "\"$text";

    $line = $opt{sign}->($line) if $opt{sign};

    my $covered = pack('H*', $self->{hash}) . $line;
    $self->{hash} = defined $self->{key}
        ? hmac_sha256_hex($covered, $self->{key}) : sha256_hex($covered);

    $line .= ",\"hash\":\"$self->{hash}\"}\n";
    push @{ $self->{lines} }, $line;

    return $line;
}


sub now {
    my ($self) = @_;

    return strftime('%Y-%m-%dT%H:%M:%S.000Z', gmtime $self->{time});
}


sub tick {
    my ($self, $seconds) = @_;

    $self->{time} += $seconds;
}


sub stop {
    my ($self, %field) = @_;

    my $open = delete $field{open};
    my $closed = delete $field{closed};
    my $id = sprintf '%032x', ++$self->{requests};
    my $job = delete $field{job_name} // "etl_$self->{requests}";
    my $more = join '', map { ",\"$_\":\"$field{$_}\"" } sort keys %field;
    my $text = ",\"request_id\":\"$id\",\"operation\":\"StopJob\","
        . '"project_id":"1551c7f6c808414d8e9f3c514a170f2e",'
        . '"cluster_id":"6ec9a0a4-76be-4262-8697-e7af1fac7920",'
        . "\"job_name\":\"$job\"";

    $self->add('intent', $text);
    return $id if $open;

    $self->tick(1);
    $self->add('outcome', $text . ($closed
        ? ',"status":0,"verdict":"unknown","closed":"crash"'
        : ',"source_ip":"10.1.2.3"' . $more . ',"status":200'
            . ($field{verdict} ? '' : ',"verdict":"stopped"')));

    return $id;
}


sub checkpoint {
    my ($self, $private, %opt) = @_;

    my $id = $self->{key_ids}{$private} //= key_id($private);

    return $self->add('checkpoint',
        ",\"every\":60,\"key_id\":\"$id\"", sign => sub {
            my ($line) = @_;
            my $signature = encode_base64(sign($private, $line), '');

            substr($signature, 0, 4) = 'AAAA' if $opt{bad};
            return "$line,\"signature\":\"$signature\"";
        });
}


sub lines {
    my ($self) = @_;

    return @{ $self->{lines} };
}


sub head {
    my ($self) = @_;

    return "$self->{seq}:$self->{hash}";
}


sub keypair {
    my $n = ++$files;

    run('openssl', 'genpkey', '-algorithm', 'ed25519', '-out', "$dir/$n.key");
    run('openssl', 'pkey', '-in', "$dir/$n.key", '-pubout', '-out',
        "$dir/$n.pub");

    return ("$dir/$n.key", "$dir/$n.pub");
}


sub key_id {
    my ($private) = @_;

    my $der = "$dir/der";
    run('openssl', 'pkey', '-in', $private, '-pubout', '-outform', 'DER',
        '-out', $der);

    return sha256_hex(substr slurp($der), -32);
}


sub sign {
    my ($private, $text) = @_;

    open my $out, '>:raw', "$dir/text" or die "$dir/text: $!\n";
    print $out $text;
    close $out or die "$dir/text: $!\n";

    run('openssl', 'pkeyutl', '-sign', '-rawin', '-inkey', $private, '-in',
        "$dir/text", '-out', "$dir/signature");

    return slurp("$dir/signature");
}


sub slurp {
    my ($file) = @_;

    open my $in, '<:raw', $file or die "$file: $!\n";
    local $/;
    return scalar <$in>;
}


sub run {
    system(@_) == 0 or die "$_[0] $_[1] failed\n";
}


1;
