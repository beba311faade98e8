package CdmStop::Verifier;

=head1 NAME

CdmStop::Verifier - cdm-stop-audit verify on the files of a test

=head1 SYNOPSIS

    my $verifier = CdmStop::Verifier->new(keys => \@keys);
    $verifier->add('audit.jsonl', $bytes);
    my @findings = $verifier->findings($chain);          # a CdmStop::Chain
    my @findings = $verifier->findings($chain, 'missing', 'cut tail');

The tool must find what the chain found: each chain's records and last record,
the open intents, and nothing else; with kinds of findings just these. Chains
without a key are allowed, and chains of which the first records are not there,
since a test may delete files.

=cut

use strict;
use warnings;

use File::Spec;
use File::Temp ();
use JSON::PP ();

use CdmStop::Process;

my $TOOL = File::Spec->rel2abs(File::Spec->catfile(
    (File::Spec->splitpath(__FILE__))[1], ('..') x 3, 'build',
    'cdm-stop-audit'));

sub new {
    my ($class, %opt) = @_;

    return bless { tool => $TOOL, keys => [], files => [], %opt }, $class;
}

sub directory {
    my ($self) = @_;

    return $self->{dir} //= File::Temp->newdir('cdm-stop-verify-XXXXXXXX',
                                               TMPDIR => 1);
}

# Names have no place for directories, and must not be those of other files.

sub add {
    my ($self, $name, $bytes) = @_;

    push @{$self->{files}},
        $self->write(sprintf('%03d-%s', scalar @{$self->{files}},
                             $name =~ tr{/}{_}r), $bytes);

    return;
}

sub write {
    my ($self, $name, $bytes) = @_;

    my $path = $self->directory . "/$name";
    my $old = umask 077;
    open my $out, '>:raw', $path or die "$path: $!\n";
    umask $old;
    print {$out} $bytes;
    close $out or die "$path: $!\n";

    return $path;
}

# Runs the tool: exit status and what it said, a hash a line.

sub verify {
    my ($self, @options) = @_;

    die "$self->{tool} is missing: run make\n" unless -x $self->{tool};

    my $n = 0;
    push @options, map { ('--key', $self->write('key' . ++$n, $_)) }
                   @{$self->{keys}};

    my ($exit, $output) = CdmStop::Process::capture(
        $self->{tool}, 'verify', '--json', '--keyless', @options,
        @{$self->{files}}, { timeout => 300 });

    return ($exit, map {
        eval { JSON::PP::decode_json($_) } // { finding => 'no JSON',
                                                text => $_ }
    } split /\n/, $output);
}

sub findings {
    my ($self, $chain, @kinds) = @_;

    return () unless @{$self->{files}};

    my ($exit, @said) =
        $self->verify(map { ('--from', $_) } $chain->before);

    my @bad = grep { $_->{finding} && ($_->{fails} // 1) } @said;
    my @troubles;

    push @troubles, map {
        "$_->{finding}, " . (($_->{file} // '') =~ s{.*/\d+-}{}r)
        . ':' . ($_->{line} // '') . ": $_->{text}"
    } @bad if "@kinds" ne join ' ', map { $_->{finding} } @bad;

    push @troubles, 'found none of: ' . join ', ', @kinds if @kinds && !@bad;
    push @troubles, "exit status $exit" if $exit != (@kinds ? 1 : 0);

    push @troubles, differ('heads', { map { $_->{chain} => $_->{head} }
                                      grep { $_->{chain} } @said },
                           { $chain->heads }) unless @kinds;
    push @troubles, differ('open intents', { map { $_->{open} => 1 }
                                             grep { $_->{file} && $_->{open} }
                                             @said },
                           { map { $_ => 1 } $chain->open }) unless @kinds;

    return map { "cdm-stop-audit: $_" } @troubles;
}

# What one of two hashes has and the other has not.

sub differ {
    my ($what, $tool, $perl) = @_;

    my %all = (%$tool, %$perl);

    return map {
        "$what: $_ " . ($tool->{$_} // 'not there') . ', expected '
        . ($perl->{$_} // 'nothing')
    } grep { ($tool->{$_} // '') ne ($perl->{$_} // '') } sort keys %all;
}

1;
