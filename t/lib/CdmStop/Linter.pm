package CdmStop::Linter;

=head1 NAME

CdmStop::Linter - a configuration that is varied, and what nginx -t says of it

=head1 SYNOPSIS

    my $lint = CdmStop::Linter->new(test => $t, conf => <<'EOC');
    http {
        cdm_stop_zone cdm:1m;                #ZONE
        ...
    EOC

    $lint->is_fine('C01 as it is', $lint->with);
    $lint->is_error('C01 no size', $lint->with(ZONE => 'cdm_stop_zone cdm;'),
                    'ZONE', 'invalid zone "cdm", write name:size');
    $lint->is_warning('C07 ...', $lint->with(...), 'GUARD', qr/.../);
    print $lint->output;                     # of all runs

A line has a name in a comment at its end: it is replaced by that name, and the
place that a message tells must be the line of the name that is given. A
message is a text or a pattern. What everyone must hear who lets anonymous
callers stop jobs counts as no complaint.

=cut

use strict;
use warnings;

use Test::More ();

our $OPEN = 'everyone who reaches this "cdm_stop" stops jobs with the '
    . "gateway's token, see to it that only those do who may";

sub new {
    my ($class, %arg) = @_;

    return bless { output => '', %arg }, $class;
}

sub output { return $_[0]{output} }

# The configuration with lines replaced; undef leaves a line empty.

sub with {
    my ($self, %change) = @_;

    my $text = $self->{conf};

    for my $mark (keys %change) {
        my $new = $change{$mark} // '';
        $text =~ s/^[^\n]*#$mark$/$new #$mark/m or die "no mark $mark\n";
    }

    return $text;
}

# Runs nginx -t: its exit status, its words, and the lines of the names.

sub look {
    my ($self, $text) = @_;

    my ($exit, $said) = $self->{test}->nginx_t($text);
    $self->{output} .= $said;

    my %line;
    my $number = 0;

    for (split /\n/, $self->{test}->read('nginx-t.conf')) {
        $number++;
        $line{$1} //= $number if /#(\w+)$/;
    }

    return ($exit, $said, \%line);
}

# The end of a message about a line.

sub place {
    my ($self, $line) = @_;

    my $file = $self->{test}->path('nginx-t.conf');
    $line //= 'unknown';

    return qr/ in \Q$file\E:$line$/m;
}

sub complaints {
    my ($said) = @_;

    return grep { /\[(?:warn|error|crit|alert|emerg)\]/ && !/\Q$OPEN\E/ }
        split /\n/, $said;
}

sub is_error {
    my ($self, $name, $text, $mark, $message) = @_;

    my ($exit, $said, $line) = $self->look($text);
    my $why = ref $message ? $message : quotemeta $message;
    my $place = $self->place($line->{$mark});

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    Test::More::isnt($exit, 0, "$name: refused");
    Test::More::like($said, qr/^.*\[emerg\].*$why.*$place/m,
        "$name: why, where and the mend");
    Test::More::is(scalar(() = $said =~ /\[emerg\]/g), 1, "$name: one error");

    return;
}

sub is_warning {
    my ($self, $name, $text, $mark, $message) = @_;

    my ($exit, $said, $line) = $self->look($text);
    my @complaints = complaints($said);
    my $why = ref $message ? $message : quotemeta $message;
    my $place = $self->place($line->{$mark});

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    Test::More::is($exit, 0, "$name: accepted") or Test::More::diag($said);
    Test::More::is(scalar @complaints, 1, "$name: one warning")
        or Test::More::diag("@complaints");
    Test::More::like($complaints[0] // '', qr/\[warn\].*$why.*$place/m,
        "$name: why, where and the mend");

    return;
}

sub is_fine {
    my ($self, $name, $text) = @_;

    my ($exit, $said) = $self->look($text);

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    Test::More::is($exit, 0, "$name: accepted") or Test::More::diag($said);
    Test::More::is(join("\n", complaints($said)), '',
        "$name: without a word");

    return;
}

1;
