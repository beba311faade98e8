package CdmStop::CheckingCdm;

=head1 NAME

CdmStop::CheckingCdm - a stand-in for CDM that asks Keystone about each token

=head1 SYNOPSIS

    my $cdm = $t->standin('CdmStop::CheckingCdm', name => 'checking',
        port => 'checking', keystone => $keystone->url);

A stop whose X-Auth-Token Keystone calls valid is answered as by
L<CdmStop::Cdm>, any other one by 401 APIG.0301.

=cut

use strict;
use warnings;

use parent 'CdmStop::Cdm';

sub application {
    my ($self) = @_;

    my $app = CdmStop::CheckingCdm::Application->new;
    $app->{keystone} = $self->{keystone};

    return $app;
}


package CdmStop::CheckingCdm::Application;

use HTTP::Tiny;

our @ISA = ('CdmStop::Cdm::Application');

# A token may always ask about itself.

sub answer {
    my ($self, $request) = @_;

    my $token = $request->header('X-Auth-Token') // '';
    my $checked = HTTP::Tiny->new(timeout => 20)->get(
        "$self->{keystone}/v3/auth/tokens?nocatalog=true",
        { headers => { 'X-Auth-Token' => $token,
                       'X-Subject-Token' => $token } });

    return $checked->{status} == 200 ? $self->SUPER::answer($request)
                                     : $self->named_answer('apig_0301');
}

1;
