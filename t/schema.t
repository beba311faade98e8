#!/usr/bin/perl

# The schema of records that users get, docs/audit-record.schema.json: it
# allows what is written and nothing else, and the harness looks at every
# record that any test wrote.

use strict;
use warnings;
use utf8;

use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP ();

use CdmStop::Schema;
use CdmStop::Test;

my $t = CdmStop::Test->new;
my $file = $t->root . '/docs/audit-record.schema.json';
my $schema = CdmStop::Schema->load($file);

# What is said of a JSON text, under a schema in Perl or that of the records.

sub said {
    my ($text, $of) = @_;

    my $json = JSON::PP->new->allow_nonref;
    my $checker = $of ? CdmStop::Schema->new($json->decode($of)) : $schema;

    return join '; ', $checker->check($json->decode($text));
}

subtest 'the checker knows what it says it does' => sub {
    for (
        ['{"type":"string"}', '"x"', '1', ': a number is no string'],
        ['{"type":"integer"}', '7', '"7"', ': a text is no integer'],
        ['{"type":"integer"}', '-7', '7.5', ': a number is no integer'],
        ['{"type":"boolean"}', 'false', '0', ': a number is no boolean'],
        ['{"type":"object"}', '{}', '[]', ': a array is no object'],
        ['{"type":"array"}', '[]', 'null', ': a null is no array'],
        ['{"const":1}', '1', '"1"', ': "1" is none of 1'],
        ['{"enum":["a","b"]}', '"b"', '"c"', ': "c" is none of "a", "b"'],
        ['{"pattern":"^a+$"}', '"aa"', '"aa\n"',
         ": \"aa\n\" does not match ^a+\$"],
        ['{"minLength":1}', '"é"', '""', ': "" is shorter than 1'],
        ['{"maxLength":1}', '"é"', '"ab"', ': "ab" is longer than 1'],
        ['{"minimum":0}', '0', '-1', ': -1 is less than 0'],
        ['{"maximum":9}', '9', '10', ': 10 is more than 9'],
        ['{"required":["a"]}', '{"a":null}', '{"b":1}', '/a: is missing'],
        ['{"properties":{"a":{"const":1}}}', '{"a":1,"b":2}', '{"a":2}',
         '/a: 2 is none of 1'],
        ['{"properties":{"a":{}},"additionalProperties":false}', '{"a":1}',
         '{"a":1,"b":2}', '/b: is not known'],
        ['{"items":{"const":1}}', '[1,1]', '[1,2]', '/1: 2 is none of 1'],
        ['{"maxItems":1}', '[1]', '[1,2]', ': [1,2] has more items than 1'],
        ['{"oneOf":[{"const":1},{"const":2}]}', '2', '3',
         ': 3 is none of 1'],
        ['{"oneOf":[{"const":1},{"minimum":1}]}', '2', '1',
         ': fits 2 of oneOf'],
        ['{"$ref":"#/$defs/a","$defs":{"a":{"const":1}}}', '1', '2',
         ': 2 is none of 1'],
    ) {
        my ($of, $good, $bad, $complaint) = @$_;

        is(said($good, $of), '', "$of allows $good");
        is(said($bad, $of), $complaint, "and not $bad");
    }

    for my $of ('{"format":"uri"}', '{"type":"text"}', '{"$ref":"#/x"}',
                '{"additionalProperties":true}', '[]')
    {
        ok(!eval { CdmStop::Schema->new(JSON::PP->new->decode($of)); 1 },
           "$of is not taken for one that allows all");
    }
};

my $time = '"time":"2026-11-24T09:00:00.123Z"';
my $target = '"operation":"StopJob","request_id":"' . 'a' x 32 . '",'
    . '"project_id":"' . '1' x 32 . '","cluster_id":"6ec9a0a4-76be-4262-8697-'
    . 'e7af1fac7920","job_name":"jdbc2hive"';
my $chain = '"v":1,"chain":"' . '0' x 16 . '","seq":1,"prev":"' . '0' x 64
    . '","hash":"' . 'f' x 64 . '"';
my $source = '"source_ip":"127.0.0.1"';

my %good = (
    refused => qq({$chain,"stage":"refused",$time,$target,$source,)
        . '"status":403,"verdict":"not_sent","error_code":"CDMSTOP.0203"}',
    misspelt => qq({$chain,"stage":"refused",$time,"operation":"StopJob",)
        . '"request_id":"' . 'a' x 32 . qq(","target":"/x",$source,)
        . '"status":400,"verdict":"not_sent","error_code":"CDMSTOP.0001"}',
    summary => qq({$chain,"stage":"refused",$time,"summary":12,)
        . '"since":"2026-11-24T08:59:59.000Z"}',
    intent => qq({$chain,"stage":"intent",$time,$target,$source,)
        . '"principal":"ann@acme","user":{"id":"1","name":"ann",'
        . '"domain":"2"},"roles":["etl"],"decision":"allow","rule":"r",'
        . '"reason":"why","enforced":true,"wait_ms":0}',
    outcome => qq({$chain,"torn":7,"stage":"outcome",$time,$target,$source,)
        . '"status":200,"verdict":"stopped","attempts":1,"duration_ms":3,'
        . '"wait_ms":0,"upstream":"10.0.0.1:443","upstream_status":200}',
    closed => qq({$chain,"stage":"outcome",$time,$target,"status":0,)
        . '"verdict":"unknown","closed":"crash"}',
    checkpoint => qq({$chain,"stage":"checkpoint",$time,"every":60,)
        . '"key_id":"' . 'e' x 64 . '","signature":"' . 'A' x 86 . '=="}',
);

subtest 'the schema of the records' => sub {
    is(said($good{$_}), '', "$_: allowed") for sort keys %good;

    for (
        ['another version', 'intent', '"v":1', '"v":2'],
        ['another stage', 'intent', '"intent"', '"intention"'],
        ['a member that is not known', 'intent', '"v":1', '"v":1,"x":1'],
        ['a token', 'intent', '"v":1', '"v":1,"client_token":"MII' . 'x' x 60
         . '"'],
        ['no id', 'intent', '"request_id"', '"request"'],
        ['no job', 'intent', ',"job_name":"jdbc2hive"', ''],
        ['a number as text', 'outcome', '"status":200', '"status":"200"'],
        ['a status', 'outcome', '"status":200', '"status":2000'],
        ['a verdict', 'outcome', '"stopped"', '"fine"'],
        ['no verdict', 'outcome', ',"verdict":"stopped"', ''],
        ['an intent with a verdict', 'intent', '"wait_ms"',
         '"verdict":"stopped","wait_ms"'],
        ['local time', 'summary', '59.000Z', '59.000+08:00'],
        ['a month', 'summary', '2026-11-24T08', '2026-13-24T08'],
        ['nothing summed up', 'summary', '"summary":12', '"summary":0'],
        ['a code', 'refused', 'CDMSTOP.0203', 'CDMSTOP.203'],
        ['a chain', 'refused', '0' x 16 . '"', '0' x 15 . '"'],
        ['a hash', 'refused', 'f' x 64, 'F' x 64],
        ['no hash', 'refused', ',"hash":"' . 'f' x 64 . '"', ''],
        ['no number', 'intent', ',"seq":1', ''],
        ['another close', 'closed', '"crash"', '"shutdown"'],
        ['a signature', 'checkpoint', '==', ''],
        ['half a sequence', 'checkpoint', '"seq":1', '"seq":1.5'],
        ['a long text', 'refused', '127.0.0.1', 'x' x 258],
        ['a long name', 'refused', 'jdbc2hive', 'x' x 241],
    ) {
        my ($name, $of, $from, $to) = @$_;

        (my $bad = $good{$of}) =~ s/\Q$from\E/$to/ or die "no $from in $of\n";
        isnt(said($bad), '', "$name: refused");
    }

    is(said($good{refused} =~ s/127\.0\.0\.1/('€' x 85) . 'x…'/er), '',
       'a text at its bound');
};

subtest 'each member is described for users' => sub {
    my ($doc) = $t->read($t->root . '/docs/AUDIT.md')
        =~ /^## Members\n(.*?)^## /ms;
    my %told = map { $_ => 1 } $doc =~ /^\| `(\w+)` \|/mg;
    my %known = map { $_ => 1 }
                keys %{$schema->{json}{'$defs'}{field}{properties}};

    is(join(' ', grep { !$told{$_} } sort keys %known), '',
       'AUDIT.md leaves out none');
    is(join(' ', grep { !$known{$_} } sort keys %told), '',
       'and has none that is not there');

    my %used = map { map { $_ => 1 } $schema->members($_) }
        qw(refused refusals intent outcome closed_outcome checkpoint);
    is(join(' ', grep { !$used{$_} } sort keys %known), '',
       'each is in some record');
};

subtest 'the harness looks at every record' => sub {
    my $x = CdmStop::Test->new;

    $x->config(<<'EOC');
    cdm_stop_audit  %%TESTDIR%%/one.jsonl;
    location / { cdm_stop_audit %%TESTDIR%%/two.jsonl best_effort; }
    # cdm_stop_audit %%TESTDIR%%/three.jsonl;
    cdm_stop_audit stderr;
EOC
    my $good = "$good{intent}\n";
    (my $bad = $good) =~ s/"wait_ms":0/"wait_ms":-1/;

    $x->write('one.jsonl', $good x 3);
    $x->write('two.jsonl', $good);
    $x->write('three.jsonl', $bad);
    $x->write('stderr.log', "nginx: something\n$good");
    is_deeply([$x->record_findings], [], 'good ones');

    $x->write('one.jsonl', $good . $bad);
    $x->write('one.jsonl.1', $bad);
    $x->write('two.jsonl', substr $good, 0, -1);
    $x->write('stderr.log', "nginx: something\n$bad");
    is_deeply([map { s/ .*//r } $x->record_findings],
              [qw(one.jsonl:2: one.jsonl.1:1: stderr.log:2: two.jsonl:1:)],
              'bad ones, with file and line');

    $x->write('one.jsonl', substr($good, 0, 40) . "\n$good\n$bad");
    $x->write('two.jsonl', $good);
    $x->damages('one.jsonl');
    is_deeply([map { s/ .*//r } $x->record_findings],
              [qw(one.jsonl:4: one.jsonl.1:1: stderr.log:2:)],
              'torn lines where the test tears them');
};

$t->done;
