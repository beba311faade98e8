package CdmStop::Iam::Application;

=head1 NAME

CdmStop::Iam::Application - the answers of the stand-in for IAM, in its child

=head1 SYNOPSIS

    my $app = CdmStop::Iam::Application->new(users => { acme => { u => 'p' } });
    my $answer = $app->answer($request, $rule);

=cut

use strict;
use warnings;

use Digest::SHA qw(sha256_hex);
use JSON::PP ();
use Time::HiRes qw(time);

use CdmStop::Http;
use CdmStop::Ledger;
use CdmStop::Standin::Rule;

my $JSON = JSON::PP->new->utf8->canonical;

my %NAMED = (
    bad_request => keystone(400, 'The request body is invalid', 'Bad Request'),
    wrong_password => keystone(401, 'The username or password is wrong.',
                               'Unauthorized'),
    agency_token_invalid => keystone(401, 'The X-Auth-Token is invalid!',
                                     'Unauthorized'),
    no_right => keystone(403, 'You have no right to do this action',
                         'Forbidden'),
    subject_invalid => keystone(404,
        'X-Subject-Token is invalid in the request', 'Not Found'),
    method_not_allowed => keystone(405, 'The method is not allowed',
                                   'Method Not Allowed'),

    bad_subject_token => iam(400, '0009', 'The X-Subject-Token is invalid.'),
    locked => iam(401, '0061', 'The account has been locked.'),
    wrong_password_code => iam(401, '0062', 'The password is incorrect.'),
    expired_token => iam(401, '0066', 'The token has expired.'),
    invalid_token => iam(401, '0067', 'The token is invalid.'),
    ak_disabled => iam(403, '0080', 'The user to which the access key belongs '
                                    . 'has been disabled.'),
    console_only => iam(403, '0081', 'This user only supports console access.'),
    user_disabled => iam(403, '0082', 'The user has been disabled.'),
    not_found => iam(404, '0004', 'The requested resource cannot be found.'),
    failed_over => iam(410, '0020', 'The authentication service has been '
                                    . 'switched to another region.'),
    throttled => iam(429, '0012', 'The throttling threshold has been reached. '
                                  . 'Threshold: 10 times per 60 seconds'),
    server_error => iam(500, '0006', 'Internal server error.'),
    unavailable => {
        status => 503, body => 'Service unavailable',
        headers => [['Content-Type', 'text/plain']],
    },
);

sub keystone {
    my ($code, $message, $title) = @_;

    return {
        status => $code,
        body => qq({"error":{"code":$code,"message":"$message",)
                . qq("title":"$title"}})
    };
}

sub iam {
    my ($status, $code, $message) = @_;

    return {
        status => $status,
        body => qq({"error_msg":"$message","error_code":"IAM.$code"})
    };
}

sub new {
    my ($class, %opt) = @_;

    return bless {
        users => {}, access_keys => {}, agencies => {}, token_size => 2000,
        life => 86400, skew => 0, tokens => {}, order => [],
        ledger => CdmStop::Ledger->new,
        %opt
    }, $class;
}

sub named_answer {
    my ($self, $name) = @_;

    return $NAMED{$name} // die "IAM has no answer named $name\n";
}

# Every answer has these, as the real one.

sub defaults {
    my ($self) = @_;

    return (
        ['Date', CdmStop::Standin::Rule::http_date(time + $self->{skew})],
        ['Content-Type', 'application/json; charset=UTF-8'],
        ['Server', 'api-gateway'],
        ['X-Request-Id', $self->random_hex(16)],
        ['X-IAM-Trace-Id', 'token_' . $self->random_hex(16)],
    );
}

sub random_hex {
    my ($self, $n) = @_;

    return unpack 'H*', $self->{ledger}->random_bytes($n);
}

sub answer {
    my ($self, $request, $rule) = @_;

    my ($path) = split /\?/, $request->{target};

    return $self->named_answer('not_found') if $path ne '/v3/auth/tokens';
    return $self->issue($request, $rule) if $request->{method} eq 'POST';
    return $self->validate($request, $rule)
        if $request->{method} =~ /\A(?:GET|HEAD)\z/;
    return $self->named_answer('method_not_allowed');
}

sub issue {
    my ($self, $request, $rule) = @_;

    my $asked = eval { $JSON->decode($request->{body})->{auth} };
    return $self->named_answer('bad_request')
        if ref $asked ne 'HASH' || ref $asked->{identity} ne 'HASH';

    my $who = $self->identify($asked->{identity}, $request);
    return $who if $who->{status};

    my $token = $self->new_token(
        %$who, project => eval { $asked->{scope}{project}{id} },
        scope => eval { $asked->{scope}{domain}{name} },
        methods => $asked->{identity}{methods},
        life => $rule->{life}, size => $rule->{token_size});

    return {
        status => 201, token_value => $token->{token},
        headers => [['X-Subject-Token', $token->{token}]],
        body => $self->token_body($token, $rule->{token})
    };
}

# Who asks: {user, domain}, or the error answer.

sub identify {
    my ($self, $identity, $request) = @_;

    my $method = eval { $identity->{methods}[0] } // '';

    if ($method eq 'password') {
        my $user = eval { $identity->{password}{user} };
        return $self->named_answer('bad_request') if ref $user ne 'HASH';

        my $domain = eval { $user->{domain}{name} } // '';
        my $right = $self->{users}{$domain}{$user->{name} // ''};

        return { user => $user->{name}, domain => $domain }
            if defined $right && defined $user->{password}
            && $user->{password} eq $right;

        return $self->named_answer('wrong_password');
    }

    if ($method eq 'hw_ak_sk') {
        my $access = eval { $identity->{hw_ak_sk}{access}{key} } // '';
        my $secret = eval { $identity->{hw_ak_sk}{secret}{key} } // '';
        my $known = $self->{access_keys}{$access};

        return { user => $known->{user}, domain => $known->{domain} }
            if $known && $known->{secret} eq $secret;

        return $self->named_answer('wrong_password');
    }

    return $self->assume($identity, $request) if $method eq 'assume_role';
    return $self->named_answer('bad_request');
}

# An agency is assumed with the token of somebody else, who is told of.

sub assume {
    my ($self, $identity, $request) = @_;

    my $by = $self->good_token($request->header('X-Auth-Token'))
        or return $self->named_answer('agency_token_invalid');
    my $domain = eval { $identity->{assume_role}{domain_name} } // '';
    my $agency = eval { $identity->{assume_role}{agency_name} } // '';

    return $self->named_answer('no_right')
        unless grep { $_ eq $agency } @{ $self->{agencies}{$domain} // [] };

    return { user => "$domain/$agency", domain => $domain, assumed_by => $by };
}

sub new_token {
    my ($self, %opt) = @_;

    my $life = $opt{life} // $self->{life};
    my $size = $opt{size} // $self->{token_size};
    my $now = time;

    my $token = {
        token => $opt{value}
            // $self->{ledger}->token($size, register => 0),
        user => $opt{user}, domain => $opt{domain}, project => $opt{project},
        roles => $opt{roles} // ['te_admin'], life => $life, issued => $now,
        scope => $opt{scope}, assumed_by => $opt{assumed_by},
        methods => $opt{methods} // ['password'], n => 1 + @{$self->{order}},
    };

    $self->{tokens}{$token->{token}} = $token;
    push @{$self->{order}}, $token;

    return $token;
}

# Ids are made of names, so that they are the same in every run.

sub id_of {
    my ($name) = @_;

    utf8::encode($name) if utf8::is_utf8($name);
    return substr sha256_hex($name), 0, 32;
}

sub token_body {
    my ($self, $token, $changes) = @_;

    my $domain = { id => id_of($token->{domain}), name => $token->{domain} };

    my %t = (
        catalog => [],
        issued_at => $self->timestamp($token->{issued}),
        expires_at => $self->timestamp($token->{issued} + $token->{life}),
        methods => $token->{methods},
        roles => [map { { id => '0', name => $_ } } @{$token->{roles}}],
        user => {
            id => id_of("$token->{user}\@$token->{domain}"),
            name => $token->{user}, password_expires_at => '',
            domain => $domain
        },
    );

    $t{project} = { id => $token->{project}, name => 'cn-north-4',
                    domain => $domain } if defined $token->{project};

    $t{domain} = { id => id_of($token->{scope}), name => $token->{scope} }
        if defined $token->{scope} && !defined $token->{project};

    my $by = $token->{assumed_by};
    $t{assumed_by} = { user => { name => $by->{user}, domain => {
        id => id_of($by->{domain}), name => $by->{domain} } } } if $by;

    for my $key (keys %{$changes // {}}) {
        if (defined $changes->{$key}) { $t{$key} = $changes->{$key} }
        else { delete $t{$key} }
    }

    return $JSON->encode({ token => \%t });
}

# UTC with six decimals, on IAM's own clock.

sub timestamp {
    my ($self, $time) = @_;

    $time += $self->{skew};
    my @t = gmtime int $time;

    return sprintf '%04d-%02d-%02dT%02d:%02d:%02d.%06dZ', $t[5] + 1900,
        $t[4] + 1, @t[3, 2, 1, 0], ($time - int $time) * 1e6;
}

sub validate {
    my ($self, $request, $rule) = @_;

    my $asking = $self->good_token($request->header('X-Auth-Token'))
        or return $self->named_answer('agency_token_invalid');
    my $subject = $self->good_token($request->header('X-Subject-Token'))
        or return $self->named_answer('subject_invalid');

    return {
        status => 200, token_value => $subject->{token},
        headers => [['X-Subject-Token', $subject->{token}]],
        body => $self->token_body($subject, $rule->{token})
    };
}

sub good_token {
    my ($self, $value) = @_;

    my $token = $self->{tokens}{$value // ''} or return;

    return if $token->{revoked} || $token->{issued} + $token->{life} <= time;
    return $token;
}

# Commands of the parent.

sub cmd_set {
    my ($self, %opt) = @_;

    @$self{keys %opt} = values %opt;
    return 1;
}

sub cmd_tokens {
    my ($self) = @_;

    return $self->{order};
}

sub cmd_add_token {
    my ($self, %opt) = @_;

    $opt{$_} //= $_ for qw(user domain);
    return $self->new_token(%opt)->{token};
}

sub cmd_revoke {
    my ($self, $value) = @_;

    my $token = $self->{tokens}{$value} or return 0;
    return $token->{revoked} = 1;
}

1;
