#!/usr/bin/perl

# The status page for everybody: by keyboard alone, as a screen reader is told
# of it, with enough contrast in each theme and state, from a phone to a wall.

use strict;
use warnings;
use utf8;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Browser;
use CdmStop::MadeStatus;
use CdmStop::Test;

my $t = CdmStop::Test->new(module => 0);
my $csp = CdmStop::MadeStatus::page($t);

my $config = <<'EOC';
%%GLOBALS%%
worker_processes 1;
events { }
http {
    %%HTTP_GLOBALS%%
    types { text/html html; application/json json; }

    server {
        listen 127.0.0.1:%%PORT%%;

        location = /status {
            if ($arg_format = json) { rewrite ^ /status.json last; }
            rewrite ^ /page.html last;
        }

        location = /page.html {
            internal;
            add_header Content-Security-Policy "POLICY";
        }

        location = /status.json {
            internal;
            ssi on;
            ssi_types application/json;
            ssi_silent_errors on;
        }
    }
}
EOC

$config =~ s/POLICY/$csp/;
$t->config($config);

my %states = (
    healthy => sub { made('healthy') },
    'IAM down' => sub { made('iam_down') },
    'IAM failing' => sub { made('iam_failing') },
    crowded => sub { made('crowded') },
    'with a warning' => sub {
        my $status = made('healthy');

        @{ $status->{tokens}[1] }{qw(state cause renew_in)}
            = ('stale', 'answer', 0);
        $status->{audit}[0]{lost} = 2;

        return $status;
    },
);

# each text that is seen against the ground that is behind it

my $measure = <<'EOJ';
function rgb(text) {
    return text.match(/[\d.]+/g).map(Number);
}

function light(c) {
    var f = c.slice(0, 3).map(function (v) {
        v /= 255;
        return v <= 0.03928 ? v / 12.92 : Math.pow((v + 0.055) / 1.055, 2.4);
    });

    return 0.2126 * f[0] + 0.7152 * f[1] + 0.0722 * f[2];
}

function ground(e) {
    for (; e; e = e.parentElement) {
        var c = rgb(getComputedStyle(e).backgroundColor);

        if (c.length === 3 || c[3] > 0) {
            return c;
        }
    }

    return [255, 255, 255];
}

function ratio(a, b) {
    a = light(a);
    b = light(b);
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}
EOJ

my $texts = $measure . <<'EOJ';
var walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
var found = [];
var seen = 0;

while (walker.nextNode()) {
    var e = walker.currentNode.parentElement;
    var box = e.getBoundingClientRect();

    if (!/\S/.test(walker.currentNode.data) || box.width < 2
        || e.closest('[hidden], svg, noscript, script, style, .skip'))
    {
        continue;
    }

    var r = ratio(rgb(getComputedStyle(e).color), ground(e));

    seen++;

    if (r < 4.5) {
        found.push(walker.currentNode.data + ' ' + r.toFixed(2));
    }
}

return { found: found, seen: seen };
EOJ

my $shapes = $measure . <<'EOJ';
var found = [];

Array.prototype.forEach.call(document.querySelectorAll('.mark, .sign, .plot'
    + ' rect, .plot path, .life rect:not(.f-track), .life .tick, .legend rect,'
    + ' .legend path, .axis, input[type=search], select'),
    function (e) {
    var style = getComputedStyle(e);
    var colour = /^(?:input|select)$/i.test(e.tagName) ? style.borderTopColor
        : style.fill === 'none' || e.tagName === 'line' ? style.stroke
        : style.fill;
    var r = ratio(rgb(colour), ground(e));

    if (r < 3 && !(e.getAttribute('width') === '0')) {
        found.push((e.getAttribute('class') || e.tagName) + ' '
                   + r.toFixed(2));
    }
});

return found;
EOJ

publish('healthy');
$t->start;

my $b = CdmStop::Browser->new(dir => $t->path('browser'),
                              timeout => $t->{timeout} * 4);

$b->size(1280, 900)->prefers(theme => 'light', language => 'en-US');

keyboard();
reader();
contrast();
sizes();
motion();

is_deeply([$b->complaints], [], 'no error and no violation all the while');

$b->stop;
$t->done;


sub made {
    my ($kind, %opt) = @_;

    return CdmStop::MadeStatus->can($kind)->(time => int(time), %opt);
}


sub publish {
    my ($state) = @_;

    CdmStop::MadeStatus::publish($t, $states{$state}->());

    return;
}


sub visit {
    $b->open('http://127.0.0.1:' . $t->port . '/status');
    $b->wait_until('return !document.getElementById("all").hidden');

    return;
}


sub focused {
    return $b->js('var e = document.activeElement;'
        . 'return e.id || e.name && e.name + "=" + e.value'
        . '|| e.className || e.textContent.trim()') // '';
}


sub keyboard {
    CdmStop::MadeStatus::publish($t, made('healthy', projects => 30));
    visit();

    $b->press('Tab');
    is(focused(), 'skip', 'keyboard: first a link to the content');
    is($b->js('return document.activeElement.getBoundingClientRect().left'
        . '>= 0'), 1, 'keyboard: which can be seen then');
    $b->press('Enter');
    is(focused(), 'main', 'keyboard: and goes there');

    visit();

    my @way;

    for (1 .. 12) {
        $b->press('Tab');
        push @way, focused();
        is($b->js('var e = document.activeElement; if (e.type === "radio")'
            . 'e = e.nextElementSibling;'
            . 'return getComputedStyle(e).outlineStyle'), 'solid',
            "keyboard: the focus is seen: $way[-1]");
        last if $way[-1] eq 'JSON';
    }

    is_deeply(\@way, ['skip', 'lang=en', 'theme=auto', 'As a table',
        'As a table', 'filter', 'sort', 'token-more', 'stop-more',
        'Metrics', 'JSON'],
        'keyboard: everything is on the way, in the order of the page');

    visit();
    $b->press(('Tab') x 2, 'Right');
    is($b->js('return document.documentElement.lang'), 'zh-Hans',
        'keyboard: another language by an arrow');
    $b->press('Left', 'Tab', 'Right', 'Right');
    is($b->js('return document.documentElement.dataset.theme'), 'dark',
        'keyboard: another theme');
    $b->press('Left', 'Left', 'Tab', 'Enter');
    ok($b->js('return document.querySelector("#plot-decisions details").open'),
        'keyboard: the table of a plot');
    $b->press('Tab', 'Tab', split //, 'huawei');
    is($b->js('return document.getElementById("filter").value'), 'huawei',
        'keyboard: the filter');
    $b->press('Tab', 'Down');
    is($b->js('return document.getElementById("sort").value'), 'project',
        'keyboard: the order');
    $b->press('Tab', 'Space');
    is($b->js('return document.querySelectorAll("#token-rows tr").length'),
        30, 'keyboard: all rows');
    is(focused(), 'token-more', 'keyboard: the focus stays on the button');
    $b->js('localStorage.clear()');

    return;
}


sub reader {
    publish('IAM down');
    visit();

    my @tree = $b->accessibility;
    my $has = sub {
        my ($role, $name) = @_;

        return scalar grep { $_->{role} eq $role && $_->{name} =~ $name } @tree;
    };

    for my $role (qw(banner main contentinfo search)) {
        is($has->($role, qr//), 1, "reader: one landmark $role");
    }

    my @headings = map { "$_->{level} $_->{name}" }
        grep { $_->{role} eq 'heading' } @tree;

    is_deeply(\@headings, ['1 No stop is possible: IAM does not answer',
        '2 Decisions, last hour', '2 What became of stops, last hour',
        '2 Tokens by project', '2 The last stops', '2 IAM', '2 CDM', '2 Audit',
        '2 Decisions by rule', '2 Gateway'],
        'reader: the headings tell it all');

    my ($status) = grep { $_->{role} eq 'status' } @tree;
    is($status->{live}, 'polite', 'reader: the line is read when it changes');
    is($b->js('return document.querySelectorAll("[aria-live]").length'), 1,
        'reader: and nothing else is');

    for my $name ('Tokens by project', 'The last stops', 'Decisions by rule') {
        is($has->('table', qr/\A\Q$name\E\z/), 1, "reader: table $name");
    }

    is_deeply([map { $_->{name} } grep { $_->{role} eq 'columnheader' } @tree],
        ['Project', 'State', 'Life left', 'Age', 'Generation', 'Time', 'Job',
         'Who', 'Why', 'Result', 'Rule', 'Decision', 'Number'],
        'reader: columns have names');

    is($has->('image', qr/\AThe\ last\ 60\ minutes:\ 94\ allowed,\ 23\ denied,
        \ 3\ ended\ before\ a\ decision\.\z/x), 1,
        'reader: a plot is told in words');

    for my $role (qw(button searchbox combobox radio image table link)) {
        my @mute = grep { $_->{role} eq $role && $_->{name} !~ /\w/ } @tree;

        is(@mute, 0, "reader: no $role without a name");
    }

    is($has->('radio', qr/\A(?:English|中文|Auto|Light|Dark)\z/), 5,
        'reader: switches by their names');
    is($b->js('return document.querySelectorAll("fieldset > legend").length'),
        2, 'reader: in two groups');

    # a change of figures is no change of the line
    $b->js(<<'EOJ');
window.changes = 0;
new MutationObserver(function (list) { window.changes += list.length; })
    .observe(document.getElementById('state-live'),
             { childList: true, characterData: true, subtree: true });
EOJ
    my $more = $states{'IAM down'}->();

    $more->{audit}[0]{seq} = 5_005;
    CdmStop::MadeStatus::publish($t, $more);
    $b->wait_until('return document.getElementById("audit").textContent'
        . '.indexOf("5,005") > 0');
    is($b->js('return window.changes'), 0,
        'reader: the line is not read again for new figures');

    publish('healthy');
    $b->wait_until('return document.getElementById("state-line").textContent'
        . '=== "Stops are possible"');
    cmp_ok($b->js('return window.changes'), '>', 0,
        'reader: but when it changes');

    # on a phone rows are blocks, and still rows
    $b->size(360, 800, 1);
    @tree = $b->accessibility;
    is($has->('table', qr/\ATokens by project\z/), 1,
        'reader: a table on a phone, too');
    cmp_ok($has->('cell', qr//), '>=', 40, 'reader: with cells');
    $b->size(1280, 900);

    return;
}


sub contrast {
    for my $state (sort keys %states) {
        publish($state);
        visit();

        for my $theme (qw(light dark)) {
            $b->prefers(theme => $theme);
            $b->wait_until('return document.documentElement.dataset.theme'
                . '=== arguments[0]', $theme);

            my $result = $b->js($texts);

            cmp_ok($result->{seen}, '>', 150, "contrast: texts, $state");
            is_deeply($result->{found}, [],
                "contrast: texts have 4.5:1, $theme, $state");
            is_deeply($b->js($shapes), [],
                "contrast: shapes have 3:1, $theme, $state");
        }

        # a word and a shape beside each colour
        is($b->js(<<'EOJ'), 0, "no state by colour alone, $state");
return Array.prototype.filter.call(
    document.querySelectorAll('.good, .fair, .poor'), function (e) {
    return !e.querySelector('svg.sign path') || !/\S/.test(e.textContent);
}).length;
EOJ
    }

    $b->prefers(theme => 'light');

    return;
}


sub sizes {
    publish('crowded');

    for my $size ([320, 640, 1], [360, 800, 1], [800, 1100, 0], [1280, 900, 0],
        [1920, 1080, 0], [2560, 1440, 0], [3840, 2160, 0])
    {
        my $width = $size->[0];

        for my $language (qw(en-US zh-CN)) {
            $b->size(@$size)->prefers(language => $language);
            visit();
            is($b->js('return document.documentElement.scrollWidth'), $width,
                "$width pixels, $language: nothing is beside the screen");
            is($b->js(<<'EOJ'), '', "$width pixels, $language: nothing is cut");
return Array.prototype.filter.call(document.querySelectorAll('main *'),
    function (e) {
    return e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 1
        && getComputedStyle(e).display !== 'inline' && !e.closest('svg')
        && !e.classList.contains('id');
}).map(function (e) {
    return e.tagName + '#' + e.id + '.' + e.className;
}).join(' ');
EOJ
        }
    }

    $b->prefers(language => 'en-US');

    # a finger finds what it means
    $b->size(360, 800, 1);
    visit();
    is($b->js(<<'EOJ'), '', 'phone: what is touched has 24 pixels');
return Array.prototype.filter.call(document.querySelectorAll(
    'main button, main select, main input, .prefs label, summary'),
    function (e) {
    var box = e.getBoundingClientRect();
    return box.width && (box.height < 24 || box.width < 24);
}).map(function (e) { return e.outerHTML; }).join(' ');
EOJ
    $b->size(1280, 900);

    return;
}


sub motion {
    for my $wish ('reduce', 'no-preference') {
        $b->prefers(motion => $wish);
        visit();
        is($b->js('return getComputedStyle(document.querySelector(".dot"))'
            . '.animationName'), $wish eq 'reduce' ? 'none' : 'beat',
            "motion: $wish");
    }

    return;
}
