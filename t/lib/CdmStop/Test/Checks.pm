package CdmStop::Test::Checks;

=head1 NAME

CdmStop::Test::Checks - the part of CdmStop::Test that asserts after each test

=head1 SYNOPSIS

    $t->expect_log(qr/worker process \d+ exited on signal 9/);   # must appear
    $t->allow_log(qr/could not build optimal/);                  # may appear
    $t->done;              # stop, then:

    no unexpected [alert], [emerg], [crit] in the error log
    what was expected is there
    no report of a sanitizer or memcheck but those of nginx's own code
    no worker died by a signal, nginx ended by itself with 0
    no secret in files, answers, command lines, environments
    all records in files are whole chains
    each record is as docs/audit-record.schema.json says

    $t->damages('audit.jsonl');   # this test breaks lines of that file

The checks are functions that return a list of findings, so that a test of the
harness can call them: log_findings, sanitizer_findings, secret_findings,
record_findings.

In debug lines nginx's core prints headers; these lines are known by their
text and left out of the search, all others are searched.

=cut

use strict;
use warnings;

use Fcntl qw(O_WRONLY O_CREAT O_APPEND);
use File::Find ();
use MIME::Base64 qw(encode_base64);
use Test::More;

use CdmStop::Schema;

sub expect_log {
    my ($self, $re) = @_;

    push @{$self->{expected}}, $re;
    return $self;
}

sub allow_log {
    my ($self, $re) = @_;

    push @{$self->{allowed}}, $re;
    return $self;
}

sub check_all {
    my ($self, $status) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    report('no alerts in the error log', $self->log_findings);
    report('what the log was to say', $self->missing_log);
    report('no sanitizer report', $self->sanitizer_findings);
    report('nginx ended well', $self->end_findings($status));
    report('no secret in files and answers', $self->secret_findings);
    report('records are chains', $self->chain_findings);
    report('records are as the schema says', $self->record_findings);

    $self->hand_over_secrets if $ENV{TEST_NGINX_SECRETS};

    return;
}

# For the search of everything after the whole suite.

sub hand_over_secrets {
    my ($self) = @_;

    my $secrets = $self->{ledger}{secrets};
    my $file = "$ENV{TEST_NGINX_SECRETS}/$$";

    sysopen my $fh, $file, O_WRONLY | O_CREAT | O_APPEND, 0600
        or die "$file: $!\n";

    print {$fh} encode_base64($secrets->{$_}, ''), ' ', encode_base64($_, ''),
        "\n" for keys %$secrets;

    close $fh or die "$file: $!\n";

    return;
}

sub report {
    my ($name, @findings) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    ok(!@findings, $name);
    my $more = @findings - 20;
    splice @findings, 20 if $more > 0;
    diag($_) for @findings, $more > 0 ? "and $more more" : ();

    return;
}

# All lines of the logs that nginx wrote of itself.

sub log_lines {
    my ($self) = @_;

    my @lines;

    for my $file (qw(startup.log error.log stderr.log)) {
        push @lines, split /\n/, $self->read($file) if -e $self->path($file);
    }

    return @lines;
}

sub log_findings {
    my ($self) = @_;

    my @known = (@{$self->{expected}}, @{$self->{allowed}});
    push @known, map { qr/worker process $_ exited on signal/ }
                 keys %{$self->{killed}};
    my %seen;

    return grep { !$seen{$_}++ }
           grep { my $line = $_; !grep { $line =~ $_ } @known }
           grep { /\[(?:alert|emerg|crit)\]/ } $self->log_lines;
}

sub missing_log {
    my ($self) = @_;

    my @expected = @{$self->{expected}} or return ();
    my @lines = $self->log_lines;

    return map { "no line: $_" }
           grep { my $re = $_; !grep { $_ =~ $re } @lines } @expected;
}

sub end_findings {
    my ($self, $status) = @_;

    my @findings = $self->{stuck} ? ($self->{stuck}) : ();

    push @findings, "nginx ended with wait status $status"
        if $status && !@findings && !$self->{may_fail}
        && !$self->only_known_reports;

    return @findings;
}

# A sanitizer makes the exit status 23 even for what is not ours.

sub only_known_reports {
    my ($self) = @_;

    return $self->{asan} && !$self->sanitizer_findings
        && glob("$self->{dir}/sanitizer/report.*");
}

# Reports of ASan, UBSan and LSan that are not of nginx's own code alone.

sub sanitizer_findings {
    my ($self) = @_;

    my @texts = map { $self->read($_) } glob "$self->{dir}/sanitizer/report*";
    push @texts, map { -e $self->path($_) ? $self->read($_) : () }
                 qw(stderr.log error.log startup.log);

    my @found = map { split_reports($_) }
                grep { /Sanitizer|runtime error:/ } @texts;
    push @found, map { split_memcheck($self->read($_)) }
                 glob "$self->{dir}/sanitizer/report.memcheck.*";

    return @found;
}

# Reports of memcheck: all of them count, what is nginx's own and harmless is in
# t/build/valgrind.supp.

sub split_memcheck {
    my ($text) = @_;

    return grep { length }
           map { s/^==\d+== ?//mgr =~ s/\s+\z//r }
           split /^==\d+== *\n/m, $text;
}

# Splits a text into reports and keeps those that count, shortened.

sub split_reports {
    my ($text) = @_;

    my @reports;

    push @reports, grep { ours_is_near_top($_) }
        $text =~ /^(\S+:\d+:\d+: runtime error:.*(?:\n\s+#\d+.*)*)/mg;
    push @reports, grep { is_our_leak($_) }
        $text =~ /^((?:Direct|Indirect) leak of .*(?:\n\s+#\d+.*)*)/mg;

    # memory errors count whoever made them
    push @reports, $text =~
        /(ERROR: (?:AddressSanitizer|MemorySanitizer).*(?:\n.*){0,25})/g;
    push @reports, $text =~ /(AddressSanitizer: ?DEADLYSIGNAL)/g;
    push @reports, $text =~ /(LeakSanitizer has encountered a fatal error)/g;

    return @reports;
}

# Undefined behaviour counts where our code is the place or its caller.

sub ours_is_near_top {
    my ($report) = @_;

    my @lines = split /\n/, $report;
    splice @lines, 3;

    return scalar grep { /ngx_http_cdm_stop/ } @lines;
}

# Leaks count unless the core's start code allocated without us; of patterns in
# the configuration it does not free all.

sub is_our_leak {
    my ($report) = @_;

    return 1 if $report =~ /ngx_http_cdm_stop/;
    return $report !~ /\b(?:ngx_event_process_init|ngx_set_environment
                          |ngx_init_setproctitle|ngx_save_argv
                          |ngx_regex_malloc)\b/x;
}

# Every file of the test, every answer, searched for every secret.

sub secret_findings {
    my ($self) = @_;

    my $ledger = $self->{ledger};
    my @findings;

    for my $file ($self->files_to_search) {
        my $content = $self->read($file);
        $content = without_core_debug($content) if $content =~ /\[debug\]/;
        push @findings, $ledger->search($content, short_name($self, $file));
    }

    # answers are many and small: searched together
    my $all = join "\n", map { $_->[1] } @{$self->{answers}};

    if ($ledger->search($all, 'answers')) {
        push @findings, map { $ledger->search($_->[1], $_->[0]) }
                        @{$self->{answers}};
    }

    return @findings;
}

sub short_name {
    my ($self, $file) = @_;

    $file =~ s{\A\Q$self->{dir}\E/}{};
    return $file;
}

# All but what the stand-ins got, the secrets' own files, and core files.

sub files_to_search {
    my ($self) = @_;

    my @files;

    File::Find::find({ no_chdir => 1, wanted => sub {
        if (-d $_ && m{\A\Q$self->{dir}\E/(?:standin|secrets|cores)\z}) {
            $File::Find::prune = 1;
            return;
        }

        push @files, $_ if -f $_ && -s _ && !$self->{secret_files}{$_};
    } }, $self->{dir});

    return sort @files;
}

# Text of debug lines in which nginx itself prints what passes through it. An
# entry of several lines lasts until the next line that begins with a date.

my $CORE = qr{
    \A[\d/]+\x20[\d:]+\x20\[debug\]\x20\d+\#\d+:\x20(?:\*\d+\x20)?(?:
        http2?\x20(?:(?:proxy|output)\x20)?(?:header|trailer):
        | http\x20script\x20(?:copy|var|value|capture|regex):
        | http\x20(?:map|regex\x20set|proxy\x20response)\b
        | http2\x20table\x20add:
    )
}x;

sub without_core_debug {
    my ($log) = @_;

    my ($kept, $skipping) = ('', 0);

    for my $line (split /^/, $log) {
        if ($line =~ m{\A\d{4}/\d\d/\d\d }) {
            $skipping = $line =~ $CORE;
        }

        $kept .= $line unless $skipping;
    }

    return $kept;
}

# Records of every file that a configuration of this test named for them, also
# of those that were rotated away.  Beyond so many lines of a file, one of a
# hundred is looked at, since decoding takes longer than the test.

my $ALL_OF = 20_000;

sub record_findings {
    my ($self) = @_;

    my $schema = $self->record_schema;
    my @findings;

    for my $file ($self->record_files) {
        my $damaged = grep { $file =~ /\A\Q$_\E(?:\.|\z)/ }
                      @{$self->{damages} // []};
        open my $in, '<:raw', $file or next;

        while (my $line = <$in>) {
            next if $. > $ALL_OF && $. % 100;
            next if $damaged && $line !~ /\A\{"v":.*\}\n\z/;

            # the log of errors, where a target is stderr
            next if $file =~ /stderr\.log\z/ && $line !~ /\A\{"v":/;

            my @bad = record_complaints($schema, $line);
            next if $damaged && @bad && $bad[0] =~ /JSON/;
            push @findings, map { short_name($self, $file) . ":$.: $_" } @bad;
        }
    }

    return @findings;
}

sub record_schema {
    my ($self) = @_;

    return $self->{schema} //= CdmStop::Schema->load(
        $self->root . '/docs/audit-record.schema.json');
}

sub record_complaints {
    my ($schema, $line) = @_;

    return 'no line feed at the end' if $line !~ s/\n\z//;

    my $record = eval { CdmStop::Test::Records::parse_line($line, 'JSON') };

    return $record ? $schema->check($record) : $@ =~ s/\n//r;
}

sub damages {
    my ($self, @files) = @_;

    push @{$self->{damages}}, map { $self->path($_) } @files;
    return $self;
}

sub record_files {
    my ($self) = @_;

    my %files = map { $_ => 1 }
                grep { -f && !/\.state(?:\.|\z)/ }
                map { glob "$_ $_.* $_-*" }
                grep { m{\A\Q$self->{dir}\E/} }
                keys %{$self->{record_targets} // {}};

    my $stderr = $self->path('stderr.log');
    $files{$stderr} = 1 if $self->{record_targets}{stderr} && -f $stderr;

    return sort keys %files;
}

# Notes where a configuration has its records written.

sub note_record_targets {
    my ($self, $text) = @_;

    $self->{record_targets}{$_} = 1
        for $text =~ /^\s*[^#\n]*?\bcdm_stop_audit\s+"?([^\s;"]+)/mg,
            $text =~ /[;{]\s*cdm_stop_audit\s+"?([^\s;"]+)/g;

    return;
}

1;
