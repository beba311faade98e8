package CdmStop::LogLines;

=head1 NAME

CdmStop::LogLines - what the module may write into the error log, out of its
sources

=head1 SYNOPSIS

    my @lines = CdmStop::LogLines::at_run_time(@texts);
    # { text => 'IAM issued a token of ... bytes for ... seconds',
    #   level => 'info' }

    my @causes = CdmStop::LogLines::causes(@texts);
    # what "..." is in "IAM gave no token: ..." and the like

The words are those that docs/TROUBLESHOOTING.md has: each number, name and
text that is put in is "...". A string that only says what is put in for a
C<%s> is a cause. Messages of the configuration are not among them; see
L<CdmStop::Messages>.

=cut

use strict;
use warnings;

my $STRING = qr/"(?:[^"\\]|\\.)*"/;

# what nginx calls its own functions in the error log

my %CALL = (
    ngx_close_file_n => 'close()', ngx_close_socket_n => 'close() socket',
    ngx_nonblocking_n => 'ioctl(FIONBIO)', ngx_fd_info_n => 'fstat()',
);

my $CALL = join '|', sort keys %CALL;
my $FORMAT = qr/(?:(?:$CALL)\s*)?(?:$STRING\s*)+/;

my %LEVEL = map { ("NGX_LOG_\U$_" => { err => 'error' }->{$_} // $_) }
    qw(emerg alert crit err warn notice info);

sub at_run_time {
    my (@texts) = @_;

    my (%line, %level);

    for my $code (@texts) {
        %level = (%level, levels($code));

        # the level, the log, an errno, and the format
        while ($code =~ /\bngx_log_error\((.*?),\s*($FORMAT)\s*[,)]/gs) {
            my ($before, $text) = ($1, plain($2));
            my $level = $before =~ /(NGX_LOG_[A-Z]+)/ ? $LEVEL{$1}
                : $before =~ /\Alevel\b/ ? $level{$text} : undef;

            next if $text =~ /\A\.\.\. in /;    # of the configuration

            push @{ $line{$text} }, $level // 'unknown';
        }
    }

    return map { { text => $_, level => join ', ', unique(@{ $line{$_} }) } }
        sort keys %line;
}

# A level that a variable holds, which was set in the same function.

sub levels {
    my ($code) = @_;

    my %level;

    while ($code =~ /\blevel = [^;]*?(NGX_LOG_[A-Z]+)\);(.*?)^\}/gms) {
        my ($name, $rest) = ($1, $2);

        $level{plain($1)} = $LEVEL{$name}
            while $rest =~ /ngx_log_error\(level,[^"]*?($FORMAT)/g;
    }

    return %level;
}

sub causes {
    my (@texts) = @_;

    my @causes;

    for my $code (@texts) {
        $code =~ s/\bngx_snprintf\([^;]*;//g;     # what nginx says it does

        while ($code =~ /(?:\breturn\s|\berror\s=\s|\?\s|\s:\s
                            |_failed\(f,[^;]*?,|_alert\([^;"]*,)
                         \s*($STRING(?:\s*$STRING)*)(?=\s*[;:)])/gx)
        {
            push @causes, plain($1);
        }

        # bytes that no header may have are kept apart
        push @causes, plain($1)
            while $code =~ /^static\s(?:const\s)?char\s[^;]*?=\s*
                            ((?:$STRING\s*)+);/gmx;
    }

    return unique(@causes);
}

# A format as it is told in the documents.

sub plain {
    my ($source) = @_;

    my ($call) = $source =~ /\A($CALL)\b/;
    my $text = join '', $source =~ /"((?:[^"\\]|\\.)*)"/g;

    $text =~ s/\\(.)/$1/g;
    $text =~ s/%(?:\*s|u[a-z]|[a-zA-Z])/.../g;

    return ($call ? $CALL{$call} : '') . $text;
}

sub unique {
    my %seen;

    return grep { !$seen{$_}++ } @_;
}

1;
