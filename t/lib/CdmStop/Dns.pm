package CdmStop::Dns;

=head1 NAME

CdmStop::Dns - a name server for tests, whose answers change

=head1 SYNOPSIS

    my $dns = CdmStop::Dns->new(port => $port, file => $t->path('names'));

    $dns->set('localhost' => ['::1', '127.0.0.1']);    # AAAA and A
    $dns->set('localhost' => []);                      # no such name
    $dns->set('localhost' => undef);                   # never answers
    $dns->queries('localhost');                        # how many so far

It listens on 127.0.0.1, UDP. Answers live for a second.

=cut

use strict;
use warnings;

use IO::Socket::INET ();
use Socket qw(AF_INET6 inet_aton inet_pton);

use CdmStop::Process;

use constant { A => 1, AAAA => 28, TTL => 1 };

sub new {
    my ($class, %opt) = @_;

    my $self = bless { %opt }, $class;

    $self->{socket} = IO::Socket::INET->new(
        Proto => 'udp', LocalAddr => '127.0.0.1', LocalPort => $opt{port})
        or die "UDP port $opt{port}: $!\n";
    $self->write_names;

    $self->{pid} = CdmStop::Process::spawn(sub { $self->serve });
    close $self->{socket};

    return $self;
}

sub set {
    my ($self, $name, $addresses) = @_;

    $self->{names}{$name} = $addresses;
    return $self->write_names;
}

# The child reads the old file or the new one.

sub write_names {
    my ($self) = @_;

    open my $out, '>', "$self->{file}.new" or die "$self->{file}: $!\n";
    print {$out} map {
        join(' ', $_, $self->{names}{$_} ? @{$self->{names}{$_}} : 'silent')
            . "\n"
    } sort keys %{$self->{names}};
    close $out or die "$self->{file}: $!\n";
    rename "$self->{file}.new", $self->{file} or die "$self->{file}: $!\n";

    return $self;
}

sub queries {
    my ($self, $name) = @_;

    open my $in, '<', "$self->{file}.queries" or return 0;
    return scalar grep { $_ eq "$name\n" } <$in>;
}

sub serve {
    my ($self) = @_;

    open my $log, '>>', "$self->{file}.queries" or die "log: $!\n";
    $log->autoflush(1);

    while (defined $self->{socket}->recv(my $query, 512)) {
        my ($id, undef, $questions) = unpack 'n3', $query;
        next if ($questions // 0) != 1;

        my ($name, $at) = ('', 12);

        while (my $n = ord substr $query, $at, 1) {
            $name .= '.' if length $name;
            $name .= substr $query, $at + 1, $n;
            $at += $n + 1;
        }

        my $type = unpack 'n', substr $query, $at + 1, 2;
        print {$log} "$name\n";

        my $answers = $self->answers($name, $type) // next;
        my $code = @$answers ? 0 : $self->known($name) ? 0 : 3;

        $self->{socket}->send(
            pack('n6', $id, 0x8180 | $code, 1, scalar @$answers, 0, 0)
            . substr($query, 12, $at + 5 - 12) . join '', @$answers);
    }

    return;
}

sub names {
    my ($self) = @_;

    open my $in, '<', $self->{file} or die "$self->{file}: $!\n";
    return { map { my ($name, @rest) = split; ($name => \@rest) } <$in> };
}

sub known { return @{$_[0]->names->{$_[1]} // []} }

# The records for a name, undef if nothing is to be answered.

sub answers {
    my ($self, $name, $type) = @_;

    my $addresses = $self->names->{$name} // [];

    return if grep { $_ eq 'silent' } @$addresses;

    return [map { pack('n3Nn', 0xc00c, $type, 1, TTL, length) . $_ }
            map { /:/ ? inet_pton(AF_INET6, $_) : inet_aton($_) }
            grep { $type == (/:/ ? AAAA : A) } @$addresses];
}

1;
