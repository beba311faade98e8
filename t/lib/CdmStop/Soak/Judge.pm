package CdmStop::Soak::Judge;

=head1 NAME

CdmStop::Soak::Judge - what must be true after a soak

=head1 SYNOPSIS

    my $judge = CdmStop::Soak::Judge->new(results => $load->results,
        seen => $cdm->command('seen'), tokens => [$iam->tokens],
        chain => $chain, kinds => $kinds, weather => $weather);
    my @complaints = $judge->tokens;

Each method looks at one matter and returns complaints, none if all is well.
C<$chain> is a L<CdmStop::Chain> with all records.

=cut

use strict;
use warnings;

# seconds that a stop may be under way to CDM on a machine that is slow

use constant LATE => 5;

sub new {
    my ($class, %opt) = @_;

    my $self = bless {%opt}, $class;

    for my $record ($self->{chain}->records) {
        my ($stage, $id) = @$record{qw(stage request_id)};

        if ($stage =~ /\A(?:intent|outcome|refused)\z/ && defined $id) {
            push @{$self->{of}{$id}{$stage}}, $record;
        }

        push @{$self->{job}{$record->{job_name}}{$stage}}, $record
            if defined $record->{job_name};
        $self->{stages}{$stage}++;
        $self->{verdicts}{$record->{verdict}}++ if $stage eq 'outcome';
        $self->{closed}++ if $record->{closed};
        $self->{summaries}++ if $record->{summary};
    }

    for my $stop (@{$self->{seen}{stops}}) {
        push @{$self->{at_cdm}{$stop->[1]}}, $stop;
    }

    return $self;
}

# By the records alone: what arrived has its intent, of that project.

sub intents {
    my ($self) = @_;

    my @complaints;

    for my $job (sort keys %{$self->{at_cdm}}) {
        my @intents = @{ $self->{job}{$job}{intent} // [] };
        my ($stop) = @{$self->{at_cdm}{$job}};

        push @complaints, "$job: " . @intents . ' intents' if @intents != 1;
        push @complaints, "$job: intent of another project"
            if @intents && $intents[0]{project_id} ne $stop->[2];
    }

    return @complaints;
}

# Each intent has one outcome; one that a dead worker left says unknown.

sub outcomes {
    my ($self) = @_;

    my @complaints;

    for my $id (sort keys %{$self->{of}}) {
        my $of = $self->{of}{$id};
        my ($intents, $outcomes) =
            map { scalar @{ $of->{$_} // [] } } qw(intent outcome);

        push @complaints, "$id: $intents intents, $outcomes outcomes"
            if $intents != $outcomes || $intents > 1;
        push @complaints, "$id: refused as well"
            if $intents && $of->{refused};

        for my $outcome (@{ $of->{outcome} // [] }) {
            push @complaints, "$id: closed as $outcome->{verdict}"
                if $outcome->{closed} && $outcome->{verdict} ne 'unknown';
            push @complaints, "$id: sent, and not sent"
                if $outcome->{verdict} eq 'not_sent'
                && $self->{at_cdm}{$outcome->{job_name}};
        }
    }

    push @complaints, "$self->{closed} closed, and no worker was killed"
        if $self->{closed} && !@{$self->{weather}{kills}};

    return @complaints;
}

# What was answered by CDM has the records of its own request.

sub answered {
    my ($self) = @_;

    my (@complaints, %seen);

    for my $r (@{$self->{results}}) {
        next if $r->{class} eq 'plain' || !defined $r->{id};

        my $of = $self->{of}{$r->{id}} // {};
        my $where = "$r->{kind} $r->{job} $r->{status} $r->{id}";

        push @complaints, "$where: this id twice" if $seen{$r->{id}}++;

        if ($r->{status} < 300) {
            my ($intent, @more) = @{ $of->{intent} // [] };
            my ($outcome, @others) = @{ $of->{outcome} // [] };

            push @complaints, "$where: not one intent and one outcome"
                if !$intent || !$outcome || @more || @others;
            push @complaints, "$where: record of $intent->{job_name}"
                if $intent && $intent->{job_name} ne $r->{job};
            push @complaints, "$where: not at CDM"
                if !$self->{at_cdm}{$r->{job}};
            push @complaints, "$where: outcome of $outcome->{status}"
                if $outcome && !$outcome->{closed}
                && $outcome->{status} != $r->{status};

        } elsif (!$of->{outcome} && !$of->{refused} && !$self->{summaries}) {
            push @complaints, "$where: no record";
        }
    }

    push @complaints, map { "$_->{kind} $_->{job}: $_->{status} without an id" }
        grep { $_->{status} && !defined $_->{id} && $_->{class} ne 'plain'
               && $_->{class} ne 'slow' } @{$self->{results}};

    return @complaints;
}

# Each stop came with a token that IAM issued to the gateway for that project,
# in its life.

sub tokens {
    my ($self) = @_;

    my %issued = map { $_->{token} => $_ } @{$self->{tokens}};
    my @tokens = @{$self->{seen}{tokens}};
    my @complaints;

    for my $stop (@{$self->{seen}{stops}}) {
        my ($time, $job, $project, $number) = @$stop;
        my $token = $issued{$tokens[$number]};

        if (!$token) {
            push @complaints, "$job: a token that IAM does not know";
            next;
        }

        push @complaints, "$job: a token of $token->{user}"
            if $token->{user} ne 'cdm-gateway';
        push @complaints, "$job: a token of project $token->{project}"
            if ($token->{project} // '') ne $project;

        my $late = $time - $token->{issued} - $token->{life};
        push @complaints, sprintf '%s: a token %.1f s behind its end', $job,
            $late if $late > LATE;
    }

    return @complaints;
}

# A stop comes again only if its token was refused, and once.

sub repeats {
    my ($self) = @_;

    my @complaints;

    for my $job (sort keys %{$self->{at_cdm}}) {
        my @times = @{$self->{at_cdm}{$job}};
        my @taken = grep { !$_->[4] } @times;

        push @complaints, "$job: " . @times . ' times, taken ' . @taken
            if @taken > 1 || @times > 2;
    }

    return @complaints;
}

# Answers are as the kinds say, and what is refused does not get to CDM.

sub answers {
    my ($self) = @_;

    my $kinds = $self->{kinds};
    my @complaints = grep { defined }
                     map { $kinds->complaint($_) } @{$self->{results}};

    push @complaints, map { "$_->{kind} $_->{job} got to CDM" }
        grep { $_->{class} eq 'refused' && $self->{at_cdm}{$_->{job}} }
        @{$self->{results}};

    return @complaints;
}

# An answer that does not come has a worker that was killed as its reason. What
# is behind another request on its connection is not taken if the answer to that
# one said so, or if the worker ends after a reload.

sub lost {
    my ($self) = @_;

    my $weather = $self->{weather};
    my @complaints;

    for my $r (@{$self->{results}}) {
        next if $r->{status} || $r->{left} || $r->{class} eq 'slow';
        next if happened($r, 1, @{$weather->{kills}});
        next if $r->{closed};
        next if $r->{behind} && happened($r, 30, @{$weather->{reloads}});

        push @complaints, sprintf '%s %s: no answer after %.1f s', $r->{kind},
            $r->{job}, $r->{end} - $r->{begin};
    }

    return @complaints;
}

# While a request was under way, or some seconds before.

sub happened {
    my ($result, $before, @times) = @_;

    return scalar grep { $result->{begin} < $_ + $before
                         && $_ < $result->{end} } @times;
}

# That the run was one: some of everything.

sub nothing_missing {
    my ($self) = @_;

    my @stops = grep { $_->{class} eq 'stop' && !$_->{left} }
                @{$self->{results}};
    my $served = grep { $_->{status} == 200 } @stops;
    my %kinds = map { $_->{kind} => 1 } @{$self->{results}};
    my %urn = map { $_ => 1 } @{$self->{kinds}{urn}};

    return (
        @stops && $served >= @stops / 3 ? ()
            : "$served of " . @stops . ' stops were served',
        map({ "no requests of the kind $_" }
            grep { !$kinds{$_} } sort keys %urn),
        map({ "nothing of the kind $_ happened" }
            grep { !$self->{weather}->has_happened($_) }
            qw(iam cdm kill reload rotate)),
    );
}

1;
