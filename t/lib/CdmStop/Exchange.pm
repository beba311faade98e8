package CdmStop::Exchange;

=head1 NAME

CdmStop::Exchange - what tests of the exchange with IAM have in common

=head1 SYNOPSIS

    use CdmStop::Exchange;

    my $config = $text =~ s/%%PROJECTS%%/project_list(300)/er;
    my $project = new_project();              # each has an entry of its own
    $iam->script({ when => { body => qr/$project/ },
                   body => body_for($project, expires_at => undef) });
    is_refused('I04 no end', $t->put_stop(project => $project));
    is(posts_for($iam, $project), 1, 'asked once');
    my @lines = lines_of($t, $project);       # of the error log
    my $n = sockets($t->worker_pids);

=cut

use strict;
use warnings;

use Exporter qw(import);
use JSON::PP ();
use POSIX qw(strftime);
use Test::More ();

our @EXPORT = qw(
    new_project project_list stamp body_for is_refused posts_for lines_of
    sockets
);

my $projects = 0;

sub new_project {
    return project($projects++);
}

sub project {
    my ($n) = @_;

    return sprintf '%032x', 0xabc000 + $n;
}

# The first n of them for "projects": of those that are not listed, a few new
# ones a minute are served.

sub project_list {
    my ($n) = @_;

    return join "\n", '', map { project($_) } 0 .. $n - 1;
}

# A time as IAM writes it, without a zone or with one, given in minutes.

sub stamp {
    my ($time, $zone) = @_;

    my @local = gmtime($time + ($zone // 0) * 60);
    my $text = strftime('%Y-%m-%dT%H:%M:%S', @local);
    return $text if !defined $zone;

    return $text . sprintf '%s%02d:%02d', $zone < 0 ? '-' : '+',
        int(abs($zone) / 60), abs($zone) % 60;
}

# A body as IAM's, for what is not made by the stand-in.

sub body_for {
    my ($project, %changes) = @_;

    my %token = (
        catalog => [], methods => ['password'], project => { id => $project },
        issued_at => stamp(time) . 'Z', expires_at => stamp(time + 3600) . 'Z',
        %changes
    );

    return JSON::PP->new->utf8->canonical->encode({ token => \%token });
}

# The answer of a gateway that has no token: it names IAM, and says when to try
# again.

sub is_refused {
    my ($name, $answer) = @_;

    my $said = eval { $answer->json } // {};
    my $id = $answer->header('X-Request-Id') // '-';
    my $ok = $answer->{status} == 503
        && ($said->{error_code} // '') eq 'CDMSTOP.0301'
        && ($said->{request_id} // '') eq $id
        && ($said->{error_msg} // '') =~ /IAM/
        && ($answer->header('Retry-After') // '') =~ /\A[1-9]\d{0,3}\z/;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return Test::More::ok($ok, "$name: 503 CDMSTOP.0301 with Retry-After")
        || Test::More::diag($answer->{raw} || $answer->{malformed});
}

# The requests for a token of a project.

sub posts_for {
    my ($iam, $project) = @_;

    return grep { $_->{body} =~ /"\Q$project\E"/ } $iam->posts;
}

# The lines of the error log about a project, but for those of success.

sub lines_of {
    my ($t, $project) = @_;

    return grep { /\Q$project\E/ && !/\[(?:debug|info)\]/ }
        split /\n/, $t->error_log;
}

# How many sockets processes have.

sub sockets {
    my (@pids) = @_;

    return scalar grep { (readlink($_) // '') =~ /\Asocket:/ }
        map { glob "/proc/$_/fd/*" } @pids;
}

1;
