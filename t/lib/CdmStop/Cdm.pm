package CdmStop::Cdm;

=head1 NAME

CdmStop::Cdm - a stand-in for Huawei's Cloud Data Migration behind its gateway

=head1 SYNOPSIS

    my $cdm = CdmStop::Cdm->new(dir => $dir, port => $port)->start;
    $cdm->script({ when => { job => 'x' }, answer => 'not_running' });
    my @stops = $cdm->stops;           # the StopJob requests that arrived

Without a script a stop is answered 200 with C<{}>, one without X-Auth-Token
401 APIGW.0301, and anything else 200 with C<{}>. Nothing of a request is
echoed. What rules may hold: L<CdmStop::Standin::Rule>.

=head1 NAMED ANSWERS

200: empty, object, spaced, list (empty validation-result), submissions,
error_entry, warning_entry, mixed_entries, not_found_200, html_200, cut_200,
no_list, twice.
CDM's errors: not_running (Cdm.0053), not_found (Cdm.0054), not_found_0100,
not_found_500, no_permission (Cdm.0032), code_00095, code_in_code,
system_error, internal_error, invalid_uri.
Of the gateway in front: token_not_found, token_expired, token_must_update
(APIGW.0307), apig_0301, apig_0307, keystone_401, keystone_401_string,
forbidden_0302, throttled, api_not_exist, too_large_494, apig_502, apig_504,
html_502, html_504, internal_0601, iam_unavailable.

=cut

use strict;
use warnings;

use parent 'CdmStop::Standin';

sub new {
    my ($class, %opt) = @_;

    return $class->SUPER::new(name => 'cdm', %opt);
}

sub application {
    my ($self) = @_;

    return CdmStop::Cdm::Application->new;
}

# The StopJob requests so far, by their target.

sub stops {
    my ($self) = @_;

    return grep { $_->{target} =~ m{/cdm/job/[^/]+/stop(?:\?|\z)} }
           $self->requests;
}

# Names of all answers, for tests that go through them.

sub answers { return CdmStop::Cdm::Application::names() }


package CdmStop::Cdm::Application;

use CdmStop::Ledger;

my $MESSAGE = 'Job[jdbc2hive] is being submitted.';
my $JSON_TYPE = [['Content-Type', 'application/json;charset=UTF-8']];

my %NAMED = (
    empty => { status => 200, body => '' },
    object => { status => 200, body => '{}' },
    spaced => { status => 200, body => '{ }' },
    list => { status => 200, body => '{"validation-result":[]}' },
    submissions => {
        status => 200,
        body => '{"submissions":[{"isIncrementing":false,"job-name":"jdbc2hive"'
                . ',"status":"FAILED","isStopingIncrement":"","progress":-1}]}'
    },
    error_entry => entries('ERROR'),
    warning_entry => entries('WARNING'),
    mixed_entries => entries('WARNING', 'ERROR'),
    not_found_200 => cdm(200, '0054', 'Job jdbc2hive does not exist.'),
    html_200 => html(200, 'Welcome'),
    cut_200 => { status => 200, body => '{"validation-result":[{"mess' },
    no_list => { status => 200, body => '{"validation-result":"ERROR"}' },
    twice => {
        status => 200,
        body => '{"validation-result":[],"validation-result":'
                . '[{"message":"m","status":"ERROR"}]}'
    },

    not_running => cdm(400, '0053', 'Job jdbc2hive is not running.'),
    not_found => cdm(400, '0054', 'Job jdbc2hive does not exist.'),
    not_found_0100 => cdm(400, '0100', "Job[jdbc2hive] doesn't exist."),
    not_found_500 => cdm(500, '0100', "Job[jdbc2hive] doesn't exist."),
    no_permission => cdm(400, '0032', 'You do not have required permissions. '
                                      . 'Check your permissions on IAM.'),
    system_error => cdm(400, '0000', 'System error.'),
    internal_error => cdm(400, '0036', 'Internal error. Cause: null.'),
    invalid_uri => cdm(400, '0501', 'Invalid URI [/v1.1].'),
    code_00095 => {
        status => 400,
        body => '{"code":"Cdm.0095","errCode":"Cdm.00095","message":'
                . '"The name cannot be empty.","externalMessage":'
                . '"The name cannot be empty."}'
    },
    code_in_code => {
        status => 400,
        body => '{"code":"Cdm.0053","message":"Job jdbc2hive is not running."}'
    },

    token_not_found => apig(401, 'APIGW.0301', 'Incorrect IAM authentication '
                            . 'information: x-auth-token not found'),
    token_expired => apig(401, 'APIGW.0301', 'Incorrect IAM authentication '
        . 'information: token expires, expires_at: 2026-01-04T09:05:22Z'),
    token_must_update => apig(401, 'APIGW.0307', 'The token must be updated.'),
    apig_0301 => apig(401, 'APIG.0301', 'Incorrect IAM authentication '
                      . 'information: decrypt token fail'),
    apig_0307 => apig(401, 'APIG.0307', 'The token must be updated.'),
    keystone_401 => {
        status => 401,
        body => '{"error":{"code":401,"message":"The X-Auth-Token is invalid!"'
                . ',"title":"Unauthorized"}}'
    },
    keystone_401_string => {
        status => 401,
        body => '{"error":{"code":"401","message":"X-Auth-Token is invalid in '
                . 'the request","title":"Unauthorized"}}'
    },
    forbidden_0302 => apig(403, 'APIGW.0302', 'The IAM user is not authorized '
                           . 'to access the API'),
    throttled => apig(429, 'APIGW.0308', 'The throttling threshold has been '
        . 'reached: policy user over ratelimit,limit:1200,time:1 minute'),
    api_not_exist => apig(404, 'APIGW.0101', 'The API does not exist or has '
                          . 'not been published in the environment'),
    too_large_494 => apig(494, 'APIGW.0201', 'Request headers too large'),
    apig_502 => apig(502, 'APIGW.0201', 'Backend unavailable'),
    apig_504 => apig(504, 'APIGW.0201', 'Backend timeout'),
    internal_0601 => apig(500, 'APIGW.0601', 'Internal server error'),
    iam_unavailable => apig(503, 'APIGW.0613', 'The IAM service is currently '
                            . 'unavailable'),
    html_502 => html(502, '502 Bad Gateway'),
    html_504 => html(504, '504 Gateway Time-out'),
);

sub names { return sort keys %NAMED }

sub entries {
    my $list = join ',', map { qq({"message":"$MESSAGE","status":"$_"}) } @_;

    return { status => 200, body => qq({"validation-result":[$list]}) };
}

sub cdm {
    my ($status, $code, $message) = @_;

    return {
        status => $status,
        body => qq({"errCode":"Cdm.$code","externalMessage":"$message"})
    };
}

sub apig {
    my ($status, $code, $message) = @_;

    return {
        status => $status, request_id => 1,
        body => qq({"error_msg":"$message","error_code":"$code",)
                . q("request_id":"%%REQUEST_ID%%"})
    };
}

sub html {
    my ($status, $title) = @_;

    return {
        status => $status, headers => [['Content-Type', 'text/html']],
        body => "<html>\r\n<head><title>$title</title></head>\r\n<body>\r\n"
                . "<center><h1>$title</h1></center>\r\n</body>\r\n</html>\r\n"
    };
}

sub new {
    my ($class) = @_;

    return bless { random => CdmStop::Ledger->new }, $class;
}

sub named_answer {
    my ($self, $name) = @_;

    my $named = $NAMED{$name} // die "CDM has no answer named $name\n";
    return { %$named };
}

sub answer {
    my ($self, $request) = @_;

    my $is_stop = $request->{target}
        =~ m{\A/v1\.1/[^/]+/clusters/[^/]+/cdm/job/[^/]+/stop\z};

    return $self->named_answer('token_not_found')
        if $is_stop && !length($request->header('X-Auth-Token') // '');
    return $self->named_answer('object');
}

# As the gateway in front of CDM adds them; its request id is in the body too.

sub defaults {
    my ($self, $answer) = @_;

    my $id = unpack 'H*', $self->{random}->random_bytes(16);
    $answer->{body} =~ s/%%REQUEST_ID%%/$id/g if defined $answer->{body};

    return (
        @$JSON_TYPE, ['Server', 'api-gateway'], ['X-Request-Id', $id],
        ['X-Apig-Latency', '7'], ['X-Apig-Upstream-Latency', '5'],
    );
}

1;
