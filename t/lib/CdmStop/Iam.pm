package CdmStop::Iam;

=head1 NAME

CdmStop::Iam - a stand-in for Huawei's IAM (Keystone v3 tokens)

=head1 SYNOPSIS

    my $iam = CdmStop::Iam->new(dir => $dir, port => $port,
        users => { acme => { 'cdm-gateway' => $password } },
        token_size => 2000, life => 86400);
    $iam->start;
    $iam->set(token_size => 31_000, life => 30);
    my @issued = $iam->tokens;     # {token, project, user, domain, life, ...}

It issues tokens for right passwords (POST /v3/auth/tokens), checks them (GET)
and answers the documented errors otherwise. Beyond the rules of
L<CdmStop::Standin::Rule> a rule may hold

    token      => { expires_at => 'x', project => undef, user => {...} }
                          fields of the answer's token object, undef removes
    token_size => N, life => SECONDS    for this answer
    answer     => NAME    see NAMED ANSWERS

and %%TOKEN%% in headers and body stands for the token that was issued.

=head1 NAMED ANSWERS

bad_request, wrong_password, locked, expired_token, invalid_token,
agency_token_invalid, no_right, ak_disabled, console_only, user_disabled,
not_found, subject_invalid, failed_over, server_error, unavailable, throttled,
bad_subject_token.

=cut

use strict;
use warnings;

use parent 'CdmStop::Standin';

use CdmStop::Iam::Application;

sub new {
    my ($class, %opt) = @_;

    return $class->SUPER::new(name => 'iam', %opt);
}

sub application {
    my ($self) = @_;

    return CdmStop::Iam::Application->new(
        map { exists $self->{$_} ? ($_ => $self->{$_}) : () }
            qw(users token_size life skew access_keys agencies));
}

# Changes token_size, life, users, skew (seconds IAM's clock is ahead),
# access_keys (AK => {secret, user, domain}), agencies (domain => [names]).

sub set {
    my ($self, %opt) = @_;

    $self->command('set', %opt);
    return $self;
}

# All tokens issued, in order: token, n, user, domain, project, issued (epoch),
# life, revoked.

sub tokens {
    my ($self) = @_;

    return @{$self->command('tokens')};
}

# The token issued last, undef if there is none.

sub last_token {
    my ($self) = @_;

    my @tokens = $self->tokens;
    return @tokens ? $tokens[-1]{token} : undef;
}

# Makes a token for a caller: user, domain, project, roles, life, size.

sub add_token {
    my ($self, %opt) = @_;

    return $self->command('add_token', %opt);
}

sub revoke {
    my ($self, $token) = @_;

    return $self->command('revoke', $token);
}

# The token requests (POST) and checks (GET) so far.

sub posts {
    my ($self) = @_;

    return grep { $_->{method} eq 'POST' } $self->requests;
}

sub gets {
    my ($self) = @_;

    return grep { $_->{method} eq 'GET' } $self->requests;
}

sub secrets {
    my ($self) = @_;

    return map { $_->{token} } $self->tokens;
}

1;
