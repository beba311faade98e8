package CdmStop::Metrics;

=head1 NAME

CdmStop::Metrics - what a gateway tells of itself

=head1 SYNOPSIS

    my $metrics = CdmStop::Metrics->new($t, target => '/status');

    my $m = $metrics->text;               # asked as Prometheus asks
    $m->{'cdm_stop_stops_total{verdict="stopped"}'}
    $metrics->sum($m, 'cdm_stop_cdm_requests_total');
    $metrics->sum($m, 'cdm_stop_errors_total', code => 'CDMSTOP.0201');

    my $json = $metrics->json;            # ?format=json, decoded
    my @complaints = $metrics->promtool($text);

The text is read strictly: each sample belongs to a family that was told of
before, no set of labels comes twice, names and escapes are legal; C<text>
dies of anything else.

=cut

use strict;
use warnings;

use JSON::PP ();

use CdmStop::Process;

sub new {
    my ($class, $t, %opt) = @_;

    return bless { t => $t, target => '/status', %opt }, $class;
}

sub get {
    my ($self, %arg) = @_;

    return $self->{t}->request(
        method => 'GET', target => $self->{target},
        defined $self->{port} ? (port => $self->{port}) : (), %arg);
}

sub text {
    my ($self, %arg) = @_;

    my $r = $self->get(%arg);
    die "no metrics: $r->{status}\n" if $r->{status} != 200;

    return parse($r->{body});
}

sub json {
    my ($self) = @_;

    my $r = $self->get(target => "$self->{target}?format=json");
    die "no JSON: $r->{status}\n" if $r->{status} != 200;

    return JSON::PP->new->utf8->decode($r->{body});
}

my $NAME = qr/[a-z][a-z0-9_]*/;
my $VALUE = qr/"(?:[^"\\\n]|\\[\\"n])*"/;
my $LABELS = qr/\{$NAME=$VALUE(?:,$NAME=$VALUE)*\}/;

sub parse {
    my ($text) = @_;

    my (%type, %help, %sample);
    utf8::decode(my $copy = $text) or die "metrics are no UTF-8\n";
    die "metrics do not end with a line feed\n" if $text !~ /\n\z/;

    for my $line (split /\n/, $text) {
        if ($line =~ /\A# HELP ($NAME) \S/) {
            die "$1 comes twice\n" if $help{$1}++;

        } elsif ($line =~ /\A# TYPE ($NAME) (counter|gauge|histogram)\z/) {
            die "$1 has no help\n" if !$help{$1};
            die "type of $1 comes twice\n" if $type{$1};
            $type{$1} = $2;

        } elsif ($line =~ /\A($NAME)($LABELS)? (\d+(?:\.\d+)?)\z/) {
            my ($name, $labels, $value) = ($1, $2 // '', $3);
            (my $family = $name) =~ s/_(?:bucket|sum|count)\z//;

            $family = $name if !$type{$family};
            die "$name has no type\n" if !$type{$family};
            die "$name$labels comes twice\n" if exists $sample{"$name$labels"};
            $sample{"$name$labels"} = $value;

        } else {
            die "no line of metrics: $line\n";
        }
    }

    return \%sample;
}

sub sum {
    my ($self, $samples, $name, %labels) = @_;

    my $sum = 0;

  SAMPLE:
    for my $key (keys %$samples) {
        next if $key !~ /\A\Q$name\E(?:\{|\z)/;

        for my $label (keys %labels) {
            next SAMPLE if index($key, qq($label="$labels{$label}")) < 0;
        }

        $sum += $samples->{$key};
    }

    return $sum;
}

# What "promtool check metrics" has to say, by lines; none is good.

sub promtool {
    my ($self, $text) = @_;

    my $file = $self->{t}->write('metrics.txt', $text);
    my ($exit, $out) =
        CdmStop::Process::capture('sh', '-c',
                                  'exec promtool check metrics < "$0"', $file);

    return $exit || $out =~ /\S/ ? split /\n/, "exit $exit\n$out" : ();
}

1;
