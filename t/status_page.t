#!/usr/bin/perl

# The status page in a real Chromium: what it shows of what it is told, that
# it follows without a reload, and what it does with hostile names.
#
# A plain nginx serves the page and made-up answers: states that a gateway is
# hard to bring into.

use strict;
use warnings;
use utf8;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Browser;
use CdmStop::MadeStatus;
use CdmStop::Process;
use CdmStop::Test;

my $t = CdmStop::Test->new(module => 0);

my ($exit, $output) = CdmStop::Process::capture(
    $^X, $t->root . '/t/build/page.pl', '--check');
is($exit, 0, 'the C file is made of what is in src/page') or diag($output
    . 'run t/build/page.pl and commit src/ngx_http_cdm_stop_page.c');

my $csp = CdmStop::MadeStatus::page($t);

like($csp, qr/\Adefault-src 'none'; script-src 'sha256-\S{44}'; /,
    'the policy allows the two by hash');
unlike($csp, qr/unsafe|\*|https?:/, 'and nothing else');
unlike($t->read('page.html'), qr{(?:src|href)="?(?:https?:)?//}i,
    'the page names no other address');
unlike($t->read('page.html'),
    qr/innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|Function\(/,
    'nothing in it makes markup of text');

my $config = <<'EOC';
%%GLOBALS%%
worker_processes 1;
events { }
http {
    %%HTTP_GLOBALS%%
    types { text/html html; application/json json; }

    server {
        listen 127.0.0.1:%%PORT%%;

        location = /gateway/status {
            if ($arg_format = json) { rewrite ^ /status.json last; }
            rewrite ^ /page.html last;
        }

        location = /page.html {
            internal;
            add_header Cache-Control no-store;
            add_header Content-Security-Policy "POLICY";
        }

        location = /status.json {
            internal;
            ssi on;
            ssi_types application/json;
            ssi_silent_errors on;
            add_header Cache-Control no-store;
        }

        location = /forbidden/status {
            if ($arg_format = json) { return 403; }
            rewrite ^ /page.html last;
        }

        location = /other/status {
            if ($arg_format = json) { return 200 "<html>a portal</html>"; }
            rewrite ^ /page.html last;
        }
    }
}
EOC

$config =~ s/POLICY/$csp/;
$t->config($config);

my $url = 'http://127.0.0.1:' . $t->port . '/gateway/status';

show(made('healthy'));
$t->start;

my $b = CdmStop::Browser->new(dir => $t->path('browser'),
                              timeout => $t->{timeout} * 4);

$b->size(1280, 900)->prefers(theme => 'light', language => 'en-US');

healthy();
decided();
trouble();
careful();
languages();
themes();
many_projects();
hostile();
follows();
gone_and_back();
old_answers();
no_status();
nothing_yet();

is_deeply([$b->complaints], [], 'no error and no violation all the while');

$b->stop;
$t->done;


# an answer of now: what the clock in it shows does not go back

sub made {
    my ($kind, %opt) = @_;

    return CdmStop::MadeStatus->can($kind)->(time => int(time), %opt);
}


sub show {
    my ($status, %opt) = @_;

    CdmStop::MadeStatus::publish($t, $status, %opt);

    return;
}


# opens the page and waits for its first answer

sub visit {
    my ($address) = @_;

    $b->open($address // $url);
    $b->wait_until('return !document.getElementById("all").hidden')
        if !$address;

    return;
}


sub state_is {
    my ($line, $name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    my $is = eval {
        $b->wait_until('return document.getElementById("state-line")'
            . '.textContent === arguments[0]', $line);
    };
    ok($is, $name) or diag('it says: ' . ($b->text('#state-line') // ''));

    return;
}


sub healthy {
    $b->requested;
    visit();

    state_is('Stops are possible', 'healthy: the line says so');
    like($b->text('#state-why'), qr/^6 projects have a good token$/m,
        'healthy: with what');
    like($b->text('#state-why'), qr/next token expires in 9 h 3 min$/m,
        'healthy: and for how long');
    is($b->js('return document.documentElement.className.match(/is-\w+/)[0]'),
        'is-ok', 'healthy: its mark');
    like($b->js('return document.title'), qr/\A✓ 127\.0\.0\.1:\d+ /,
        'healthy: the title, too');

    is($b->js('return document.querySelectorAll("#token-rows tr").length'),
        6, 'healthy: a row for each project');
    like($b->text('#token-rows tr'), qr/\A[0-9a-f]{32}\s+huawei\s+good\s+
        9\ h\ 3\ min\ left\s+renews\ in\ 4\ h\s+14\ h\s+9\z/x,
        'healthy: the most urgent token first');
    is($b->js('return document.querySelectorAll("#token-rows rect")[1]'
        . '.getAttribute("width")'), 378, 'healthy: and its bar of life');

    like($b->text('#stop-rows tr'), qr/\A(?:\d+\ \w+,\ )?
        \d\d:\d\d:\d\d\s+[0-9a-f]{32}\s+etl_customers\s+\S+\s+\/\s+\S+\s+
        li\.wei\@acme\s+rule\ etl-owners\s+stopped\s+
        200\ ·\ 384\ ms\z/x, 'healthy: the last stop first');
    like($b->text('#iam'), qr/healthy.*412 valid, 9 refused, 0 failed/s,
        'healthy: IAM');
    like($b->text('#cdm'), qr/Stops sent: 1,927.*186 ms median/s,
        'healthy: CDM');
    like($b->text('#audit'), qr/written.*\bLost\s+0\b.*9f3c514a170f2e41\ at
        \ 3,968.*Checkpoint\s+at\ 3,968,\ \d+\ s\ ago/xs, 'healthy: the audit');
    like($b->text('#rules'), qr/etl-owners.*allowed\s+1,204.*by\ default
        .*denied\s+32/xs, 'healthy: decisions by rule');
    like($b->text('#plot-decisions'), qr/\A10\s+60\ min\ ago\s+at\ most
        \ 8\ a\ minute\s+now\s+allowed\ 94\s+denied\ 23\s+
        ended\ before\ a\ decision\ 3\s/x, 'healthy: decisions of the hour');
    is($b->text('#h-verdicts'), 'What became of stops, last hour',
        'healthy: a verdict is counted for all stops');
    like($b->text('#plot-verdicts'), qr/\A10\s.*stopped\ 80\s+
        already\ stopped\ 7\s+not\ stopped\ 3\s+unknown\ 4\s+
        not\ sent\ 26\s/xs, 'healthy: verdicts, on the same scale');
    is($b->js(<<'EOJ'), 'f-quiet f-quiet', 'healthy: a refusal is no alarm');
return ['decisions', 'verdicts'].map(function (plot) {
    return document.querySelector('#plot-' + plot + ' .legend li:nth-child('
        + (plot === 'decisions' ? 2 : 5) + ') svg').firstChild
        .getAttribute('class');
}).join(' ');
EOJ

    my @urls = $b->requested;

    is_deeply([grep { !m{\A(?:\Q$url\E(?:\?format=json)?\z|data:)} } @urls],
        [], 'L08 it asks for itself and its JSON, nothing else');
    cmp_ok(scalar(grep { /format=json/ } @urls), '>=', 1, 'and for these');

    return;
}


# what let a stop pass, or kept it, is said as it was

sub decided {
    my $status = made('healthy');
    my @allow = (decision => 'allow', rule => undef, reason => undef,
                 sent => CdmStop::MadeStatus::true(), code => undef);
    my @deny = (decision => 'deny', rule => undef, reason => undef,
                sent => CdmStop::MadeStatus::false(), status => 403);
    my @case = (['no policy', @allow], ['by default', @deny,
        code => 'CDMSTOP.0201'], ['by default', @allow, decision => 'deny'],
        ['no reason given', @deny, code => 'CDMSTOP.0205']);
    my $i = 0;

    for my $case (@case) {
        my ($said, %more) = @$case;
        my $stop = $status->{last}[$i++];

        %$stop = (%$stop, %more);
    }

    show($status);
    visit();

    is_deeply($b->js('return Array.prototype.slice.call(document'
        . '.querySelectorAll("#stop-rows td:nth-child(4)"), 0, 4)'
        . '.map(function (cell) { return cell.textContent; })'),
        [map { $_->[0] } @case], 'why a stop passed, or did not');

    return;
}


sub trouble {
    show(made('iam_failing'));
    visit();

    state_is('Stops are possible, but not everywhere: IAM does not answer',
        'IAM fails: the line says so and why');
    is($b->js('return document.documentElement.className.match(/is-\w+/)[0]'),
        'is-warn', 'IAM fails: a warning');
    like($b->text('#state-why'), qr/2\ projects\ have\ no\ usable\ token
        .*4\ tokens\ cannot.*for\ 32\ min\ more.*3\ requests\ wait/xs,
        'IAM fails: and the rest');
    like($b->text('#token-rows tr'), qr/missing\s+ended\s+next\ try\ in
        \ 4\d\ s\s+IAM\ does\ not\ answer/x, 'IAM fails: no token first');
    like($b->text('#iam'), qr/IAM does not answer.*\d s ago, 212 in a row/s,
        'IAM fails: how often');
    like($b->text('#stop-rows tr'), qr/refused\s+503 CDMSTOP\.0301: no gat/,
        'IAM fails: a stop that it cost');

    my $status = made('iam_down');

    show($status);
    state_is('No stop is possible: IAM does not answer',
        'IAM down: no stop, and why');
    is($b->js('return document.documentElement.className.match(/is-\w+/)[0]'),
        'is-bad', 'IAM down: its mark');
    like($b->text('#state-why'), qr/^identity huawei, next try in 35 s$/m,
        'IAM down: which identity');
    like($b->js('return document.title'), qr/\A✕ /, 'IAM down: the title');

    $status->{ready}{reasons}[0]{code} = 'iam_refused';
    show($status);
    state_is('No stop is possible: IAM refuses the gateway’s credentials',
        'refused credentials: no stop');

    my $other = made('healthy')->{tokens}[0];

    $other->{identity} = 'other';
    push @{ $status->{tokens} }, $other;
    show($status);
    state_is('Not every stop is possible: IAM refuses the gateway’s '
        . 'credentials',
        'another identity is well: some stops are');

    $status->{ready}{reasons} = [{ code => 'audit_failing', identity => undef,
        target => '/var/log/nginx/cdm_stop.jsonl', retry => undef }];
    show($status);
    state_is('No stop is possible: audit records cannot be written',
        'no records: no stop');
    like($b->text('#state-why'), qr{records to /var/log/nginx/cdm_stop.jsonl},
        'and where');

    $status->{ready}{reasons}[0]{code} = 'constructor';
    show($status);
    state_is('No stop is possible: constructor',
        'a reason that the page does not know is shown as it is');

    return;
}


# stops are possible, and still somebody should look

sub careful {
    my $status = made('healthy');
    my $token = $status->{tokens}[2];

    @$token{qw(state cause retry renew_in)} = ('stale', 'throttled', 7.5, 0);
    show($status);
    visit();
    state_is('Stops are possible, but tokens are not renewed: IAM throttles',
        'a token that is not renewed is told of');
    like($b->text('#token-rows tr'), qr/not renewed\s.*\bIAM throttles/s,
        'and comes first');
    is($b->js('return document.documentElement.className.match(/is-\w+/)[0]'),
        'is-warn', 'and is a warning');

    $status = made('healthy');
    $status->{audit}[0] = { %{ $status->{audit}[0] }, required =>
        CdmStop::MadeStatus::false(), state => 'failing', lost => 3,
        lost_by_stage => { intent => 1, outcome => 2, refused => 0 },
        error => 'No space left on device' };
    show($status);
    state_is('Stops are possible, but something needs care',
        'records that get lost are told of');
    like($b->text('#state-why'), qr/being lost \(No space left on device\)/,
        'with the error');
    like($b->text('#audit'), qr/3: 1 intents, 2 outcomes, 0 refusals/,
        'and which');

    show(made('crowded'));
    state_is('Stops are possible, but not everywhere: refused by IAM',
        'much at once: the worst comes first');
    like($b->text('#state-why'), qr/1\ project\ has\ no\ usable\ token
        .*syslog:\S+\ records\ are\ being\ lost\ \(Connection\ refused\)
        .*another\ instance\ has\ this\ file.*got\ no\ answer\ of\ CDM
        .*7\ projects\ have\ a\ good\ token.*expires\ in\ 9\ h/xs,
        'much at once: and all the rest');
    like($b->text('#iam'), qr/huawei\s+healthy.*otc-agency\s+refused\ by\ IAM
        .*rather-long-name\s+not\ asked\ yet/xs, 'much at once: identities');
    like($b->text('#token-rows'), qr/unused,\ lapses.*whole\ domain\s+
        otc-agency\s+being\ renewed.*none\s+no\ token/xs,
        'much at once: tokens');
    like($b->text('#stop-rows'), qr/dry\ run.*not\ a\ legal\ target\s+
        not\ known\s+no\ reason\ given\s+refused\s+400\ CDMSTOP\.0001/xs,
        'much at once: stops');

    return;
}


sub languages {
    show(made('healthy'));
    $b->prefers(language => 'zh-CN');
    visit();

    state_is('可以停止作业', 'Chinese by the language of the browser');
    is($b->js('return document.documentElement.lang'), 'zh-Hans',
        'which the document says');
    unlike($b->text('main'), qr/\b(?:median|ago|left|stopped|allowed)\b/,
        'no English word is left');
    is($b->js(<<'EOJ'), '', 'each word of the page has both languages');
return Array.prototype.filter.call(document.querySelectorAll('[data-t]'),
    function (e) { return !/[\u4e00-\u9fff]/.test(e.textContent); })
    .map(function (e) { return e.dataset.t; }).join(' ');
EOJ

    $b->click('input[name=lang][value=en]');
    state_is('Stops are possible', 'English by the switch, at once');
    like($b->text('#token-rows tr'), qr/\bgood\b/, 'in the tables, too');
    visit();
    state_is('Stops are possible', 'which is remembered');

    $b->click('input[name=lang][value=zh]');
    state_is('可以停止作业', 'and back');
    $b->js('localStorage.clear()');
    $b->prefers(language => 'en-US');

    return;
}


sub ground {
    return $b->js('return getComputedStyle(document.body).backgroundColor');
}


sub themes {
    visit();
    my $light = ground();

    $b->prefers(theme => 'dark');
    $b->wait_until('return document.documentElement.dataset.theme === "dark"');
    isnt(ground(), $light, 'dark when the system turns dark, without reload');

    $b->click('input[name=theme][value=light]');
    is(ground(), $light, 'light by the switch');
    visit();
    is(ground(), $light, 'which is remembered');

    $b->click('input[name=theme][value=auto]');
    isnt(ground(), $light, 'and back to what the system says');
    $b->js('localStorage.clear()');
    $b->prefers(theme => 'light');

    return;
}


sub shown_rows {
    return $b->js('return document.querySelectorAll("#token-rows tr").length');
}


sub many_projects {
    my $status = made(healthy => projects => 500);
    my $odd = $status->{tokens}[417];

    @$odd{qw(state cause left usable)} = ('failing', 'refused', 0, 0);
    show($status);
    visit();

    state_is('Stops are possible, but not everywhere: refused by IAM',
        '500 projects: one lacks');
    is(shown_rows(), 10, '500 projects: a few are shown');
    like($b->text('#token-rows tr'), qr/\A\Q$odd->{project}\E/,
        '500 projects: the one that lacks first');

    $b->click('#token-more');
    is(shown_rows(), 500, '500 projects: all by a click');
    is($b->js('return document.getElementById("token-more")'
        . '.getAttribute("aria-expanded")'), 'true', '500 projects: told so');

    $b->keys('#filter', substr $status->{tokens}[99]{project}, 4, 12);
    $b->wait_until('return document.querySelectorAll("#token-rows tr")'
        . '.length === 1');
    like($b->text('#token-rows tr'), qr/\A\Q$status->{tokens}[99]{project}\E/,
        '500 projects: found by a part of the id');
    is($b->text('#token-sum'), '1 of 500 projects',
        '500 projects: of how many');

    $b->keys('#filter', 'huawei missing');
    $b->wait_until('return document.querySelector("#token-rows tr")'
        . '.textContent.indexOf(arguments[0]) === 0', $odd->{project});
    is(shown_rows(), 1, '500 projects: found by words that are on the screen');

    $b->keys('#filter', 'nothing such');
    $b->wait_until('return document.getElementById("tokens").hidden');
    is($b->text('#token-sum'), 'No project matches the filter.',
        '500 projects: none found');

    $b->keys('#filter', '');
    $b->js('var f = document.getElementById("filter"); f.value = "";'
        . 'f.dispatchEvent(new Event("input"))');
    $b->js('var s = document.getElementById("sort"); s.value = "project";'
        . 's.dispatchEvent(new Event("change"))');
    my ($first) = sort map { $_->{project} } @{ $status->{tokens} };
    like($b->text('#token-rows tr'), qr/\A$first/, '500 projects: by project');

    $b->click('#token-more');
    is(shown_rows(), 10, '500 projects: fewer again');

    return;
}


# names as somebody would choose who wants to be seen, or not to be

sub hostile {
    my $override = "\x{202e}";
    my @names = ('<script>window.taken = 1</script>',
        '"><img src=x onerror="window.taken = 2">', q{'); window.taken = 3; ('},
        'a\\u003cb\\', '</style></script><b>bold</b>', '{why} {n}|{name}',
        "etl_${override}gpj.exe", "line\nbreak\ttab", '__proto__',
        'javascript:window.taken=4', "a\x{200b}b\x{feff}\x{e0041}",
        '<!--# echo var="x" -->' =~ s/#/ #/r, 'x' x 240, '源库' x 100);
    my $status = made('healthy');
    my $i = 0;

    for my $stop (@{ $status->{last} }) {
        my $name = $names[$i++ % @names];

        @$stop{qw(job principal rule reason)} = ($name) x 4;
        $stop->{location} = $name;
    }

    $status->{rules} = [map { {
        server => $_, location => $_, policy => $_, rule => $_,
        decision => 'deny', enforced => CdmStop::MadeStatus::true(), count => 1
    } } @names[0 .. 11]];

    $status->{identities}[0]{name} = $names[0];
    $status->{identities}[0]{iam} = $names[9];
    $status->{identities}[0]{state} = $names[1];
    $status->{audit}[0]{target} = $names[6];
    $status->{audit}[0]{chain} = $names[4];
    $status->{tokens}[0] = { %{ $status->{tokens}[0] }, identity => $names[1],
        project => $names[4], state => $names[8], cause => $names[5] };
    $status->{totals}{errors}{$names[0]} = 1;
    $status->{last}[0]{verdict} = $names[8];
    $status->{last}[1]{code} = $names[0];
    $status->{ready} = { ok => CdmStop::MadeStatus::false(), reasons => [
        { code => $names[0], identity => $names[6], target => $names[4],
          retry => undef }] };
    show($status);
    visit();

    state_is("Not every stop is possible: $names[0]",
        'L08 a hostile reason is text');
    $b->click('#stop-more');

    is($b->js('return String(window.taken)'), 'undefined',
        'L08 nothing of it runs');
    is($b->js('return document.querySelectorAll("script").length'), 1,
        'L08 there is no script but the page’s own');
    is($b->js('return document.querySelectorAll("main img, main b, main style,'
        . ' main a, main iframe, [onerror]").length - document'
        . '.querySelectorAll(".legend b, noscript a").length'), 0,
        'L08 no element of it');

    my $text = $b->js('return document.querySelector("main").textContent');

    for my $name (@names[0 .. 5, 8, 9, 12, 13]) {
        ok(index($text, $name) >= 0, 'L08 to be read: '
            . substr $name, 0, 40);
    }

    unlike($text, qr/[\x{200b}-\x{200f}\x{202a}-\x{202e}\x{2066}-\x{2069}]/,
        'L08 nothing that reorders text or hides is in the page');
    like($text, qr/etl_U\+202Egpj\.exe/, 'L08 but its number');
    like($text, qr/aU\+200BbU\+FEFFU\+E0041/, 'L08 for others, too');
    like($text, qr/lineU\+000AbreakU\+0009tab/, 'L08 and control characters');

    is($b->js(<<'EOJ'), '', 'L08 each name is isolated from what is around it');
return Array.prototype.filter.call(document.querySelectorAll('.ctl'),
    function (e) { return !e.closest('bdi'); }).length
    + Array.prototype.filter.call(
        document.querySelectorAll('#stop-rows td:nth-child(3)'),
        function (e) { return !e.querySelector('bdi'); }).length || '';
EOJ

    for my $width (360, 1280) {
        $b->size($width, 900, $width < 500);
        is($b->js('return document.documentElement.scrollWidth'), $width,
            "L08 long names do not widen the page of $width pixels");
    }

    $b->size(1280, 900);

    return;
}


# new figures come by themselves, and disturb nobody

sub follows {
    my $status = made('healthy');

    show($status);
    visit();
    $b->js('window.marked = true; document.querySelector("#stop-rows")'
        . '.children[1].marked = true');
    $b->keys('#filter', 'huawei');
    $b->js('document.querySelector("#plot-decisions details").open = true');

    splice @{ $status->{last} }, 0, 0, { %{ $status->{last}[0] },
        time => $status->{time} - 1, job => 'just_stopped' };
    $status->{audit}[0]{seq} = 4_001;
    show($status);

    $b->wait_until('return document.querySelector("#stop-rows tr")'
        . '.textContent.indexOf("just_stopped") > 0');
    pass('a new stop appears by itself');
    like($b->text('#audit'), qr/at 4,001/, 'and the audit goes on');
    ok($b->js('return window.marked'), 'without a reload');
    ok($b->js('return document.querySelector("#stop-rows").children[2].marked'),
        'a row that says the same stays the same element');
    is($b->js('return document.activeElement.id'), 'filter',
        'the focus stays');
    is($b->js('return document.getElementById("filter").value'), 'huawei',
        'the filter, too');
    ok($b->js('return document.querySelector("#plot-decisions details").open'),
        'and what was opened');

    return;
}


sub gone_and_back {
    show(made('healthy'));
    visit();
    $t->stop;

    state_is('The gateway does not answer', 'gone: the line says so');
    like($b->text('#fresh'), qr/\Ano answer for \d+ s\z/, 'gone: since when');
    like($b->text('#state-why'), qr/what was known \d+ s ago/,
        'gone: what is shown is old');
    is($b->js('return document.documentElement.className.match(/is-\w+/)[0]'),
        'is-bad', 'gone: its mark');
    ok($b->js('return document.documentElement.classList.contains("gone")'),
        'gone: the figures lose their colours');

    # a refused connection is in the console whatever a page does
    is_deeply([grep { !/ERR_CONNECTION_REFUSED/ } $b->complaints], [],
        'gone: no other error');
    $b->forget_complaints;

    $t->start;
    state_is('Stops are possible', 'back: the page goes on by itself');
    is($b->text('#fresh'), 'up to date', 'back: it is fresh');
    $b->forget_complaints;

    return;
}


# a cache between the page and the gateway would show good health for ever

sub old_answers {
    show(made('healthy'), still => 1);
    visit();
    state_is('What is shown is not new', 'old answers are told from new ones');
    like($b->text('#fresh'), qr/answers are \d+ s old: a cache is in between/,
        'and why');

    return;
}


sub no_status {
    visit($url =~ s/gateway/forbidden/r);
    state_is('The gateway does not show its status here (HTTP 403)',
        'forbidden: the line says so');
    is_deeply([grep { !/status of 403/ } $b->complaints], [],
        'forbidden: no other error');
    $b->forget_complaints;

    visit($url =~ s/gateway/other/r);
    state_is('What answers here is not the gateway',
        'something else that answers is told from the gateway');

    return;
}


sub nothing_yet {
    show(made('idle'));
    visit();

    state_is('Stops are possible', 'a fresh gateway: ready');
    like($b->text('main'), qr/No project yet.*No stop was.*No decision yet/s,
        'a fresh gateway: it says that there is nothing');
    like($b->text('#audit'), qr/off in every location/,
        'a fresh gateway: and no audit');

    return;
}
