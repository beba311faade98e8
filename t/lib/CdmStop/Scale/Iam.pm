package CdmStop::Scale::Iam;

=head1 NAME

CdmStop::Scale::Iam - a fast IAM that believes every token

=head1 SYNOPSIS

    my $pid = CdmStop::Process::spawn(sub {
        CdmStop::Scale::Iam::serve($listener);
    });

    my $caller = CdmStop::Scale::Iam::token($project, $number, $size);

L<CdmStop::Iam> looks at what it is asked as the real one does, and keeps all of
it for the test; that is too slow for a hundred thousand callers. This one says
what a token says of itself: the project and the number of its user are in it.
A user whose name ends with a number gets tokens of so many bytes.
So the stand-in for CDM can also tell whether a token is that of its project.

=cut

use strict;
use warnings;

use IO::Select;

use CdmStop::Standin::Rule;

use constant LIFE => 86_400 * 30;

# MII, the project, the number, and what fills it up.

sub token {
    my ($project, $number, $size) = @_;

    my $token = sprintf 'MII%s%08d', $project, $number;

    return $token . 'A' x ($size - length $token);
}

sub serve {
    my ($listener) = @_;

    my $select = IO::Select->new($listener);
    my %buffer;

    for (;;) {
        for my $fh ($select->can_read) {
            if ($fh == $listener) {
                my $new = $listener->accept or next;
                $new->blocking(1);
                $select->add($new);
                $buffer{$new} = '';
                next;
            }

            if (!sysread $fh, $buffer{$fh}, 65_536, length $buffer{$fh}) {
                $select->remove($fh);
                delete $buffer{$fh};
                close $fh;
                next;
            }

            while ($buffer{$fh} =~ /\A(.*?\r\n\r\n)/s) {
                my $head = $1;
                my ($body) = $head =~ /^content-length: *(\d+)/im;
                last if length $buffer{$fh} < length($head) + ($body // 0);

                my $request = substr $buffer{$fh}, 0,
                    length($head) + ($body // 0), '';
                syswrite $fh, answer($request);
            }
        }
    }
}

sub answer {
    my ($request) = @_;

    my ($status, $token);

    if ($request =~ /\APOST /) {
        my ($project) = $request =~ /"id":\s*"([0-9a-f]{32})"/;
        my ($size) = $request =~ /"name":\s*"[a-z-]+(\d+)"/;
        $status = '201 Created';
        $token = token($project, 0, $size);

    } else {
        $status = '200 OK';
        ($token) = $request =~ /^x-subject-token: *(\S+)/im;
    }

    my ($project, $number) = $token =~ /\AMII([0-9a-f]{32})(\d{8})/
        or return "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
    my $body = sprintf '{"token":{"catalog":[],"expires_at":"%s",'
        . '"issued_at":"%s","methods":["password"],"roles":[{"id":"0",'
        . '"name":"te_admin"}],"user":{"id":"%s","name":"u%s","domain":{"id":'
        . '"%s","name":"acme"}},"project":{"id":"%s","name":"cn-north-4",'
        . '"domain":{"id":"%s","name":"acme"}}}}', timestamp(time + LIFE),
        timestamp(time), '0' x 24 . $number, $number, 'd' x 32, $project,
        'd' x 32;

    return "HTTP/1.1 $status\r\nDate: "
        . CdmStop::Standin::Rule::http_date(time)
        . "\r\nContent-Type: application/json\r\nX-Subject-Token: $token\r\n"
        . 'Content-Length: ' . length($body) . "\r\n\r\n$body";
}

sub timestamp {
    my ($time) = @_;

    my @t = gmtime $time;

    return sprintf '%04d-%02d-%02dT%02d:%02d:%02d.000000Z', $t[5] + 1900,
        $t[4] + 1, @t[3, 2, 1, 0];
}

1;
