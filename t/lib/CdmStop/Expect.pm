package CdmStop::Expect;

=head1 NAME

CdmStop::Expect - what must be seen when a stop is refused or goes through

=head1 SYNOPSIS

    my $e = CdmStop::Expect->new($t, iam => $iam, cdm => $cdm);

    $e->refused($answer, '0001', 'T04 dot segments');
    $e->forwarded($answer, 'T01 canonical target', job => 'x');
    $e->by_nginx($answer, 400, 'T09 a null character');
    $e->ended_early($answer, 403, 'T14 deny');     # a record, no error_code
    $e->nothing('T10 no record for a request that is no stop');

Each is one assertion; what is wrong is told in lines of its own. Requests are
to be judged one after the other: what arrived at IAM and CDM since the last
call, and all records since then, belong to the request at hand.

=cut

use strict;
use warnings;


use Test::More ();

use CdmStop::Test::Records;

my %STATUS = (
    '0001' => 400, '0002' => 400, '0003' => 405, '0005' => 403, '0006' => 425,
    '0203' => 403, '0204' => 403, '0301' => 503, '0303' => 503,
    '0401' => 502, '0402' => 504,
);

sub new {
    my ($class, $t, %opt) = @_;

    return bless {
        t => $t, file => $t->path($opt{file} // 'audit.jsonl'), at => 0,
        iam_bytes => 0, cdm_requests => 0, cdm_bytes => 0, %opt
    }, $class;
}

# Records that were written since the last call.

sub new_records {
    my ($self) = @_;

    open my $in, '<:raw', $self->{file} or return ();
    seek $in, $self->{at}, 0;
    my $bytes = do { local $/; <$in> } // '';
    close $in;

    # a line may be on its way
    $bytes =~ s/[^\n]+\z//;
    $self->{at} += length $bytes;

    return grep { !$self->{known}{$_->{request_id}} }
           CdmStop::Test::Records::parse_lines($bytes, $self->{file});
}

# Waits until there are $n new records; returns those that came.

sub wait_records {
    my ($self, $n) = @_;

    my @records;

    $self->{t}->wait_for(sub { push @records, $self->new_records;
                               @records >= $n },
                         quiet => 1, timeout => $self->{timeout} // 5);
    $self->{t}->pace(1);

    return @records;
}

# Bytes at IAM, and requests and bytes at CDM, since the last call.

sub arrived {
    my ($self) = @_;

    my %now;
    @now{qw(iam_bytes iam_requests)} = map { @$_{qw(bytes requests)} }
        $self->{iam}->counters if $self->{iam};
    @now{qw(cdm_bytes cdm_requests)} = map { @$_{qw(bytes requests)} }
        $self->{cdm}->counters if $self->{cdm};

    my %new = map { $_ => $now{$_} - ($self->{$_} // 0) } keys %now;
    @$self{keys %now} = values %now;

    return %new;
}

sub report {
    my ($name, @findings) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 2;

    Test::More::ok(!@findings, $name)
        or Test::More::diag(map { "  $_\n" } @findings);

    return !@findings;
}

# The gateway's own answer, one record of it, and nothing sent. Options: head
# (no body), iam (requests IAM may have got), target (of the record), job.

sub refused {
    my ($self, $answer, $code, $name, %opt) = @_;

    my @findings = own_answer($answer, $code, %opt);
    push @findings, $self->nothing_arrived(%opt);

    my @records = $self->wait_records(1);
    push @findings, one_refusal(\@records, $answer, $STATUS{$code},
                                "CDMSTOP.$code", %opt);

    return report($name, @findings);
}

# Refused by nginx itself, but a stop: a record without a code of ours.

sub ended_early {
    my ($self, $answer, $status, $name, %opt) = @_;

    my @findings;
    push @findings, "status $answer->{status}"
        if !$opt{no_answer} && $answer->{status} != $status;
    push @findings, 'no X-Request-Id'
        if !$opt{no_answer} && !defined $answer->header('X-Request-Id');
    push @findings, $self->nothing_arrived(%opt);

    my @records = $self->wait_records(1);
    push @findings, one_refusal(\@records, $opt{no_answer} ? undef : $answer,
                                $status, undef, %opt);

    return report($name, @findings);
}

# Refused by nginx before any module sees it: no record is demanded; one that
# is there says so, and may come late. Status: a number or a list of numbers.

sub by_nginx {
    my ($self, $answer, $status, $name) = @_;

    my @allowed = ref $status ? @$status : $status;
    my @findings;

    push @findings, "status $answer->{status}, body $answer->{body}"
        unless grep { $answer->{status} == $_ } @allowed;
    push @findings, 'an answer of the module' if $answer->{body} =~ /CDMSTOP/;
    push @findings, $self->nothing_arrived;

    my @records = $self->new_records;
    my $id = $answer->header('X-Request-Id');
    $self->{known}{$id} = 1 if defined $id;

    push @findings, scalar(@records) . ' records' if @records > 1;
    push @findings, map {
        compare($_, stage => 'refused', error_code => undef,
                defined $id ? (request_id => $id) : ())
    } @records;

    return report($name, @findings);
}

# No record, and nothing sent but what the test expects of its own.

sub nothing {
    my ($self, $name, %opt) = @_;

    my @findings = $self->nothing_arrived(%opt);
    push @findings, map { "a record: $_->{stage}" } $self->new_records;

    return report($name, @findings);
}

# A pair of records and one request at CDM, as documented. Options: job (the
# decoded name), target (at CDM), verdict, body, status, iam, project, cluster.

sub forwarded {
    my ($self, $answer, $name, %opt) = @_;

    my %new = $self->arrived;
    my @findings;
    my $status = $opt{status} // 200;

    push @findings, "status $answer->{status}: $answer->{body}"
        if $answer->{status} != $status;
    push @findings, "$new{cdm_requests} requests at CDM"
        if $new{cdm_requests} != 1;
    push @findings, "$new{iam_requests} requests at IAM"
        if defined $opt{iam} && $new{iam_requests} != $opt{iam};

    my $got = ($self->{cdm}->requests)[-1];
    push @findings, $self->sent($got, %opt) if $got && $new{cdm_requests};

    my @records = $self->wait_records(2);
    push @findings, pair(\@records, $answer, %opt);

    return report($name, @findings);
}

# What CDM got.

sub sent {
    my ($self, $got, %opt) = @_;

    my $target = $opt{target} // $self->{t}->stop_target(%opt);
    my @tokens = $got->all('X-Auth-Token');
    my @findings;

    push @findings, "method $got->{method}" if $got->{method} ne 'PUT';
    push @findings, "target $got->{target}" if $got->{target} ne $target;
    push @findings, "malformed: $got->{malformed}" if $got->{malformed};
    push @findings, scalar(@tokens) . ' X-Auth-Token' if @tokens != 1;
    push @findings, 'the token is not the one that IAM issued'
        if @tokens && $tokens[0] ne $self->issued_token(%opt);

    my @framing = grep { $_ eq 'content-length' || $_ eq 'transfer-encoding' }
                  $got->names;
    push @findings, "framed by @framing" if "@framing" ne 'content-length';
    push @findings, 'Accept-Encoding is not identity'
        if join(',', $got->all('Accept-Encoding')) ne 'identity';
    push @findings, 'another body: ' . substr($got->{body}, 0, 60)
        if $got->{body} ne ($opt{body} // '');

    return @findings;
}

# The token that IAM issued last for a project.

sub issued_token {
    my ($self, %opt) = @_;

    my $project = $opt{project} // CdmStop::Test->PROJECT;
    my @tokens = map { $_->{token} }
        grep { ($_->{project} // '') eq $project } $self->{iam}->tokens;

    return $tokens[-1] // '';
}

sub own_answer {
    my ($answer, $code, %opt) = @_;

    my @findings;
    push @findings, "status $answer->{status} " . ($answer->{malformed} // '')
        if $answer->{status} != $STATUS{$code};

    my @ids = $answer->all('X-Request-Id');
    push @findings, 'X-Request-Id: ' . join(', ', @ids)
        if @ids != 1 || $ids[0] !~ /\A[0-9a-f]{32}\z/;

    push @findings, 'Content-Type ' . ($answer->header('Content-Type') // '-')
        if ($answer->header('Content-Type') // '') ne 'application/json';
    push @findings, 'Allow ' . join(', ', $answer->all('Allow'))
        if $code eq '0003' && join(', ', $answer->all('Allow')) ne 'PUT';

    if ($opt{head}) {
        push @findings, 'a body' if $answer->{body} ne '';
        return @findings;
    }

    my $json = eval { $answer->json };
    return (@findings, "no JSON: $answer->{body}") if ref $json ne 'HASH';

    my $keys = join ' ', sort keys %$json;
    push @findings, "keys $keys" if $keys ne 'error_code error_msg request_id';
    push @findings, 'error_code ' . ($json->{error_code} // '-')
        if ($json->{error_code} // '') ne "CDMSTOP.$code";
    push @findings, 'another request_id'
        if ($json->{request_id} // '') ne ($ids[0] // '');
    push @findings, 'no message' if !length($json->{error_msg} // '');

    return @findings;
}

sub nothing_arrived {
    my ($self, %opt) = @_;

    my %new = $self->arrived;
    my @findings;

    push @findings, "$new{cdm_bytes} bytes at CDM"
        if $new{cdm_bytes} && !$opt{cdm};
    push @findings, "$new{iam_requests} requests at IAM"
        if ($new{iam_requests} // 0) != ($opt{iam} // 0);

    return @findings;
}

sub one_refusal {
    my ($records, $answer, $status, $code, %opt) = @_;

    return scalar(@$records) . ' records: '
        . join(', ', map { $_->{stage} } @$records) if @$records != 1;

    my $r = $records->[0];
    my @findings = compare($r, stage => 'refused', error_code => $code,
        upstream_status => undef, verdict => 'not_sent', status => $status,
        operation => 'StopJob', v => 1, source_ip => '127.0.0.1');

    push @findings, compare($r, request_id => $answer->header('X-Request-Id'))
        if $answer;
    push @findings, compare($r, target => $opt{target})
        if exists $opt{target};
    push @findings, compare($r, job_name => $opt{job}) if exists $opt{job};

    return @findings;
}

sub pair {
    my ($records, $answer, %opt) = @_;

    my $stages = join ' ', map { $_->{stage} } @$records;
    return "records: $stages" if $stages ne 'intent outcome';

    my ($intent, $outcome) = @$records;
    my %same = (
        request_id => $answer->header('X-Request-Id'), operation => 'StopJob',
        job_name => $opt{job} // CdmStop::Test->JOB,
        project_id => $opt{project} // CdmStop::Test->PROJECT,
        cluster_id => $opt{cluster} // CdmStop::Test->CLUSTER,
        source_ip => '127.0.0.1'
    );

    my @findings = map { compare($_, %same) } $intent, $outcome;
    push @findings, compare($intent, status => undef, verdict => undef);
    push @findings, compare($outcome, status => $opt{status} // 200,
        upstream_status => $opt{status} // 200, attempts => 1,
        verdict => $opt{verdict} // 'stopped', error_code => undef,
        injected_token => $intent->{injected_token},
        token_generation => $intent->{token_generation});
    push @findings, 'no fingerprint'
        if !length($intent->{injected_token} // '');

    return @findings;
}

sub compare {
    my ($record, %want) = @_;

    return map {
        my ($have, $want) = ($record->{$_}, $want{$_});
        my $same = defined $have ? defined $want && $have eq $want
                                 : !defined $want;
        $same ? () : "$record->{stage}: $_ is " . ($have // 'absent')
                     . ', not ' . ($want // 'there');
    } sort keys %want;
}

1;
