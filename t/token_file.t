#!/usr/bin/perl

# A token that something else keeps in a file: it is read whole or not at all,
# a new one is taken without a reload, and while the file is no good the old
# token serves on.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Time::HiRes qw(sleep time);

use CdmStop::Exchange;
use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');
my ($iam, $cdm) = ($t->iam, $t->cdm);

# each file has an identity and a server of its own
my @files = qw(kept lines ended long late foreign skewed lasting);
my $files = 0;

my $projects = project_list(30);
my $config = '';

for my $name (@files, map { "bad$_" } 0 .. 7) {
    $config .= <<"EOC";
    cdm_stop_iam $name {
        uri        http://127.0.0.1:%%IAM_PORT%%;
        insecure   on;
        method     file;
        token_file %%TESTDIR%%/tokens/$name;
        projects   $projects;
    }
    server {
        listen 127.0.0.1:%%PORT_$name%%;
        location /v1.1/ {
            cdm_stop   $name;
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
    }
EOC
}

$t->config(<<"EOC");
%%GLOBALS%%
worker_processes 2;
events { }
http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone               cdm:1m;
    cdm_stop_verify             off;
    cdm_stop_anonymous          on;
    cdm_stop_insecure_upstream  on;
    cdm_stop_audit              %%TESTDIR%%/audit.jsonl;
$config
}
EOC

# workers may be another user than the one of the test
mkdir $t->path('tokens');
chmod 0711, $t->path('tokens');


# A token that IAM knows, for a project.

sub issue {
    my ($project, %opt) = @_;

    return $iam->add_token(user => 'keeper', domain => 'acme',
                           project => $project, size => 3000, %opt);
}

# Puts a file in the place of another by a rename, as its keeper should.

sub put {
    my ($name, $content, $mode) = @_;

    $t->{secret_files}{$t->path("tokens/$name")} = 1;
    $t->write_secret("tokens/$name.new", $content, $mode // 0644);
    rename $t->path("tokens/$name.new"), $t->path("tokens/$name")
        or die "tokens/$name: $!\n";

    return;
}

# Writes into a file that is there.

sub overwrite {
    my ($name, $content) = @_;

    open my $fh, '>:raw', $t->path("tokens/$name") or die "$name: $!\n";
    print {$fh} $content;
    close $fh or die "$name: $!\n";

    return;
}

sub stop {
    my ($name, $project) = @_;

    return $t->put_stop(project => $project, port => $t->port($name));
}

# The token that CDM gets for a stop, or the status where there is none.

sub token_for {
    my ($name, $project) = @_;

    my $before = $cdm->stops;
    my $answer = stop($name, $project);
    my @stops = $cdm->stops;

    return $answer->{status} if @stops == $before;
    return $stops[-1]->header('X-Auth-Token');
}

# As is(), but shows no token.

sub is_token {
    my ($got, $token, $name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return ok($got eq $token, $name)
        || diag(length $got < 10 ? "  $got" : '  another token');
}

# Waits until CDM gets a token; true if it came within two looks.

sub taken {
    my ($name, $project, $token) = @_;

    my $start = time;

    $t->wait_for(sub { token_for($name, $project) eq $token },
                 quiet => 1, timeout => 10);
    my $time = time - $start;

    return $time < 5 || diag(sprintf '  after %.1f seconds', $time) && 0;
}

# Waits for a line about a project since the last call.

my %told;

sub told {
    my ($project, $re) = @_;

    my $line = $t->wait_for(sub {
        my @lines = lines_of($t, $project);
        my @own = grep { /$re/ } @lines[($told{$project} // 0) .. $#lines];
        return @own ? $own[0] : undef;
    }, quiet => 1, timeout => 10);

    $told{$project} = () = lines_of($t, $project);
    return $line // "no line for $re";
}

# Lines of the error log that name a file.

sub lines_about {
    my ($name) = @_;

    return grep { m{/tokens/\Q$name\E"} } split /\n/, $t->error_log;
}

# Waits for an alert that names a file.

sub alert_about {
    my ($name, $re) = @_;

    $t->wait_for(sub { grep { /\[alert\].*$re/ } lines_about($name) },
                 quiet => 1, timeout => 10);

    return join "\n", lines_about($name);
}

$t->start;


# read once, and asked about

my $kept = new_project();
my $first = issue($kept);

put('kept', $first);
is_token(token_for('kept', $kept), $first,
    'I11 CDM gets the token of the file');

{
    my @asked = $iam->requests;

    is(scalar @asked, 1, 'I11 IAM is asked once');
    ok($asked[0]{raw} eq "GET /v3/auth/tokens?nocatalog=true HTTP/1.1\r\n"
        . 'Host: 127.0.0.1:' . $t->port('IAM') . "\r\n"
        . "Accept: application/json\r\n"
        . "User-Agent: ngx_http_cdm_stop_module/0.1.0\r\n"
        . "X-Auth-Token: $first\r\nX-Subject-Token: $first\r\n"
        . "Connection: close\r\n\r\n",
        'I11 about the token, with the token itself');

    is_token(token_for('kept', $kept), $first, 'I11 the next stop has it too');
    is(scalar $iam->requests, 1, 'I11 without a call');
}

# replaced by a rename, without a reload

{
    my $second = issue($kept);

    put('kept', $second);
    ok(taken('kept', $kept, $second), 'I11 a new file is taken within seconds');
    is(scalar $iam->requests, 2, 'I11 after one call about it');
    is_token(token_for('kept', $kept), $second, 'I11 and stays');
}


# no good, in each of these ways: the old token serves, and an alert says why

my $not_a_token = qr/does not hold a token, write it to another file/;
my %bad = (
    'empty' => sub { overwrite($_[0], '') },
    'a line feed alone' => sub { overwrite($_[0], "\n") },
    'two lines' => sub { overwrite($_[0], "$_[1]\n$_[1]\n") },
    'a blank in it' => sub { put($_[0], "$_[1] $_[1]") },
    'too long' => sub { put($_[0], 'x' x 32_769) },
    'not to be opened' => sub { put($_[0], $_[1], 0) },
    'a directory' => sub {
        unlink $t->path("tokens/$_[0]");
        mkdir $t->path("tokens/$_[0]");
    },
    'gone' => sub { unlink $t->path("tokens/$_[0]") },
);
my @bad = map { { name => $_, file => 'bad' . $files++,
                  project => new_project(), spoil => $bad{$_} } }
    sort keys %bad;

for my $case (@bad) {
    $case->{token} = issue($case->{project});
    put($case->{file}, "$case->{token}\n");
    is_token(token_for(@$case{qw(file project)}), $case->{token},
        'I11 the line feed at the end is cut');
}

# all at once, and each mended at its own time
$_->{spoil}->($_->{file}, substr $_->{token}, 0, 1500) for @bad;

for my $case (@bad) {
    my $name = "I11 the file is no good, $case->{name}";
    my @case = @$case{qw(file project)};
    my $re = $case->{name} eq 'not to be opened'
        ? qr/\(13: Permission denied\)/ : $not_a_token;

    if ($case->{name} eq 'gone') {
        sleep 1.5;

    } else {
        like(alert_about($case->{file}, $re), qr/\[alert\].*$re/,
            "$name: an alert");
    }

    is_token(token_for(@case), $case->{token}, "$name: the old one serves");
}

put($_->{file}, $_->{new} = issue($_->{project}))
    for grep { rmdir $t->path("tokens/$_->{file}") || 1 } @bad;

ok(taken(@$_{qw(file project new)}),
    "I11 the file is no good, $_->{name}: then a good one is taken") for @bad;


# cut, but without a sign of it: IAM tells

{
    my $project = new_project();
    my $old = issue($project);
    my $new = issue($project);

    put('lines', $old);
    is_token(token_for('lines', $project), $old, 'I11 a token');

    my $calls = $iam->requests;
    put('lines', substr $new, 0, 2000);
    like(told($project, qr/\[(?:alert|error)\]/), qr/status 401/,
        'I11 half a token: IAM does not know it');
    is_token(token_for('lines', $project), $old, 'I11 the old one serves');

    put('lines', $new);
    ok(taken('lines', $project, $new), 'I11 then the whole one is taken');
    cmp_ok(scalar($iam->requests) - $calls, '<=', 4, 'I11 with few calls');
}


# it ended before its keeper came with the next one

{
    my $project = new_project();

    put('ended', issue($project, life => 3));
    is(stop('ended', $project)->{status}, 200,
        'I11 a token with 3 seconds left');
    $t->wait_for(sub { stop('ended', $project)->{status} == 503 },
                 what => 'end of the token');
    is_refused('I11 at its end', stop('ended', $project));

    my $calls = $iam->requests;
    sleep 1;
    stop('ended', $project) for 1 .. 5;
    cmp_ok(scalar($iam->requests) - $calls, '<=', 2,
        'I11 IAM is not asked about it without pause');

    my $new = issue($project);
    put('ended', $new);
    ok(taken('ended', $project, $new), 'I11 the next one is taken');
}


# nothing there when nginx starts

{
    my $project = new_project();

    is_refused('I11 no file at first', stop('late', $project));
    like(join("\n", lines_about('late')),
        qr/\[alert\].*cannot be opened by the worker.*No such file/,
        'I11 no file at first: an alert');

    my $token = issue($project);
    put('late', $token);
    ok(taken('late', $project, $token), 'I11 then there is one');
}


# the longest

{
    my $project = new_project();
    my $token = issue($project, size => 32_768);

    put('long', "$token\n");
    is_token(token_for('long', $project), $token, 'H03 32,768 bytes in a file');
}


# of another project

{
    my ($project, $other) = (new_project(), new_project());
    my $token = issue($other);

    put('foreign', $token);
    is_refused('I11 a token of another project', stop('foreign', $project));
    like(told($project, qr/\[error\]/),
        qr/a token of another project \(status 200/, 'I11 the log says so');
    is_token(token_for('foreign', $other), $token,
        'I11 its own project has it');
}


# how long it lives is told by IAM's clock, at the time of the call

{
    my $project = new_project();

    $iam->set(skew => 3600);
    $iam->script({ token => { issued_at => '2020-01-03T09:05:22.701000Z' } });
    put('skewed', issue($project, life => 200));
    is(stop('skewed', $project)->{status}, 200, 'M02 the clock of IAM is off');
    like($t->error_log,
        qr/IAM issued a token of 3000 bytes for (?:200|199|198) s/,
        'M02 its life is counted from the Date of the answer');
    $iam->set(skew => 0);
    $iam->script;
}

# near its end it is asked about again, but not over and over

{
    my $project = new_project();

    put('lasting', issue($project, life => 12));
    my $calls = $iam->requests;
    my $end = time + 6;
    my %status;

    while (time < $end) {
        $status{ stop('lasting', $project)->{status} }++;
        sleep 0.2;
    }

    is_deeply([keys %status], [200], 'K02 a token in use');
    cmp_ok(scalar($iam->requests) - $calls, '<=', 2,
        'K02 is not asked about all the time');
}

$t->expect_log(qr{\[alert\].*token file "\S+/tokens/\w+"});
$t->allow_log(qr/\[alert\].*IAM refuses the gateway: status 401/);
$t->done;
