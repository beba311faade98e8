package CdmStop::Messages;

=head1 NAME

CdmStop::Messages - what "nginx -t" may say of the module, out of its sources

=head1 SYNOPSIS

    my @messages = CdmStop::Messages::of('src/ngx_http_cdm_stop_check.c');
    # { file, line, format, re }

    my @silent = CdmStop::Messages::unseen($output, @messages);

A test of the configuration collects the output of all its runs and asks here
which messages none of them brought forth, so that no message can be written
without a test that shows when it comes.

=cut

use strict;
use warnings;

my $STRING = qr/"(?:[^"\\]|\\.)*"/;
my $WORD = qr/[A-Za-z_]\w*/;

# A format is one string or several in a row, with macros between them.
my $FORMAT = qr/(?:(?:$STRING|$WORD)\s*)*$STRING/;

sub of {
    my (@files) = @_;

    my @messages;

    for my $file (@files) {
        open my $fh, '<', $file or die "$file: $!\n";
        my $code = do { local $/; <$fh> };
        close $fh;

        push @messages, logged($file, $code), returned($file, $code);
    }

    return @messages;
}

# The third argument of ngx_conf_log_error() is an errno, that of our own
# function a place: both may be calls or conditions.

sub logged {
    my ($file, $code) = @_;

    my @messages;

    while ($code =~ /\b(ngx_conf_log_error|ngx_http_cdm_stop_conf_error)\(
                     \s*(?:cf,\s*)?NGX_LOG_\w+,\s*(?:cf,\s*)?
                     [^"]*?,\s*($FORMAT)\s*[,)]/gx)
    {
        push @messages, message($file, $code, $-[2], $2);
    }

    return @messages;
}

# A setter's own words, to which the core adds the directive.

sub returned {
    my ($file, $code) = @_;

    my @messages;

    my $choice = qr/(?:\([^;"]*\)\s*\?\s*$WORD\s*:\s*)?/;

    while ($code =~ /\breturn\s+$choice($FORMAT)\s*;/g) {
        push @messages, message($file, $code, $-[1], $1);
    }

    return @messages;
}

sub message {
    my ($file, $code, $at, $source) = @_;

    my $line = 1 + (() = substr($code, 0, $at) =~ /\n/g);
    my $format = '';
    my $re = '';

    while ($source =~ /($STRING)|($WORD)/g) {
        if (defined $2) {
            $format .= "<$2>";
            $re .= '.*?';
            next;
        }

        my $text = substr $1, 1, -1;
        $text =~ s/\\(.)/$1/g;
        $format .= $text;
        $re .= join '.*?', map { quotemeta } split /%\*?[a-zA-Z]+/, $text, -1;
    }

    # "%ui" and "%uz" are two letters, "%V" is one, with text behind it
    $re =~ s/\.\*\?(?=\w)/.*?/g;

    return { file => $file, line => $line, format => $format, re => qr/$re/ };
}

sub unseen {
    my ($output, @messages) = @_;

    return grep { $output !~ $_->{re} } @messages;
}

1;
