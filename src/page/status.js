/*
 * The status page.  What it shows comes from the JSON of its own address, every
 * few seconds.  Much of that was written by strangers: it gets into the page as
 * text, by name() of dom.js, never as markup.
 */

var EVERY = 3000;               /* milliseconds between two questions, */
var EVERY_SLOW = 30000;         /* and if answers take long */
var SHARE = 10;                 /* they take a tenth of the time */
var EVERY_HIDDEN = 15000;       /* while nobody looks */
var PATIENCE = 8000;            /* for one answer */
var LATE = 10000;               /* an answer is old then at the soonest */
var GRACE = 3000;               /* for the first answer after a look away */
var FEW = 10;                   /* rows that are shown unasked */
var FEW_ON_PHONE = 4;
var FEW_ON_WALL = 14;
var FEW_RULES = 12;

var lang = 0;                   /* the column of WORDS */
var data = null;                /* the last answer */
var got = 0;                    /* when it came */
var moved = 0;                  /* when the clock in it went on last */
var opened = Date.now();        /* when somebody began to look */
var trouble = null;             /* why there is no newer answer */
var every = EVERY;              /* milliseconds between two questions now */
var timer = null;
var asking = false;
var allTokens = false;
var allStops = false;


/* asking */

function ask() {
    var stop = new AbortController();
    var begun = Date.now();
    var patience;

    if (asking) {
        return;
    }

    asking = true;
    clearTimeout(timer);
    patience = setTimeout(function () { stop.abort(); }, PATIENCE);

    fetch(new URL('?format=json', location.href), {
        cache: 'no-store', credentials: 'same-origin', redirect: 'error',
        headers: { accept: 'application/json' }, signal: stop.signal

    }).then(function (response) {
        if (!response.ok) {
            throw { status: response.status };
        }

        return response.json().catch(function () { throw { json: true }; });

    }).then(function (answer) {
        if (!answer || answer.format !== 1) {
            throw { json: true };
        }

        if (!data || answer.time !== data.time) {
            moved = Date.now();
        }

        got = Date.now();
        every = Math.min(EVERY_SLOW, Math.max(EVERY, SHARE * (got - begun)));
        data = answer;
        trouble = null;

    }).catch(function (error) {
        trouble = error.json ? { key: 'not_json' }
            : error.status && error.status < 500
            ? { key: 'forbidden', status: error.status } : { key: 'gone' };

    }).then(function () {
        clearTimeout(patience);
        asking = false;
        show();
        timer = setTimeout(ask, document.hidden
            ? Math.max(EVERY_HIDDEN, every) : every);
    });
}


/* an answer is old from then on */

function late() {
    return Math.max(LATE, 3 * every);
}


/* how it stands with what is shown: null if it is fresh */

function stale() {
    var now = Date.now();
    var age = now - Math.max(got, opened);

    if (trouble && (!data || age > late())) {
        return trouble;
    }

    if (document.hidden || now - opened < GRACE) {
        return null;
    }

    if (data && now - moved > late() && now - got < late()) {
        return { key: 'cached' };
    }

    return data && now - got > late() ? { key: 'gone' } : null;
}


/* the small line of freshness, every second */

function fresh() {
    var old = stale();
    var age = (Date.now() - got) / 1000;
    var text;

    if (!data) {
        text = trouble ? '' : t('asking');

    } else if (old && old.key === 'cached') {
        text = t('old_answer', { age: duration((Date.now() - moved) / 1000) });

    } else if (trouble || old) {
        text = t('no_answer', { age: duration(age) });

    } else {
        text = age < every / 1000 + 2 ? t('updated_now')
            : t('updated', { age: duration(age) });
    }

    put($('fresh-text'), text);

    if ((old && old.key) !== fresh.shown) {
        headline();
    }
}


/* the one large line */

function headline() {
    var old = stale();
    var root = document.documentElement;
    var said = old ? silence(old) : data ? verdict() : null;

    fresh.shown = old && old.key;
    root.classList.toggle('late', !!old && old.key === 'cached');
    root.classList.toggle('gone', !!old && old.key !== 'cached');

    if (!said) {
        return;
    }

    ['ok', 'warn', 'bad'].forEach(function (kind) {
        root.classList.toggle('is-' + kind, kind === said.kind);
    });

    once($('state-mark'), said.kind, function () {
        return shape(MARKS[said.kind]);
    });

    once($('state-line'), [said.key, said.code || '', said.args || 0],
        function () {
        return phrase(said.key, { status: said.args, why: said.code
            ? word(said.prefix || '', said.code) : '' });
    });

    fill($('state-why'), said.why.filter(function (line) {
        return line.length;
    }).map(function (line) {
        return el('li', {}, line);
    }));

    put(document.querySelector('title'),
        SIGNS[said.kind] + ' ' + location.host + ' – ' + t('title'));

    if ($('icon').dataset.kind !== said.kind) {
        $('icon').dataset.kind = said.kind;
        $('icon').href = ICONS[said.kind];
    }
}


var MARKS = { ok: 'good', warn: 'fair', bad: 'poor' };

var SIGNS = { ok: '✓', warn: '▲', bad: '✕' };

var ICONS = {
    ok: icon('%234b9a77', SHAPES.good),
    warn: icon('%23b3760b', SHAPES.fair),
    bad: icon('%23cf4a3c', SHAPES.poor)
};

function icon(colour, d) {
    return 'data:image/svg+xml,<svg xmlns="http://www.w3.org/2000/svg" '
        + 'viewBox="0 0 16 16"><path fill="' + colour
        + '" fill-rule="evenodd" d="' + d + '"/></svg>';
}


/* nothing new is known */

function silence(old) {
    var said = { kind: old.key === 'cached' ? 'warn' : 'bad', key: old.key,
                 args: old.status, why: [t('gone_hint')] };

    if (data) {
        said.why.unshift(t('last_known', { age: duration(
            (Date.now() - (old.key === 'cached' ? moved : got)) / 1000) }));
    }

    return said;
}


function verdict() {
    var reasons = data.ready.reasons;
    var usable = tokens_that('good').length + tokens_that('stale').length;
    var cares, first;

    if (!data.ready.ok) {
        first = reasons[0] || { code: 'not_ready' };

        return {
            kind: 'bad', code: first.code,
            key: usable && reasons.every(function (reason) {
                return present(reason.identity);
            }) ? 'cannot_partly' : 'cannot',
            why: reasons.map(why).concat(lacking().map(told), soon())
        };
    }

    cares = care();

    if (cares.length) {
        first = cares[0];

        return { kind: 'warn', key: first.key + (first.cause ? '_why' : ''),
                 code: first.cause, prefix: 'c_',
                 why: cares.map(told).concat(soon()) };
    }

    return { kind: 'ok', key: 'can', why: soon() };
}


function told(one) {
    return one.why;
}


function tokens_that(are) {
    return data.tokens.filter(function (token) {
        return token.state === are;
    });
}


/* one reason of the gateway, in words; the large line has the first one's */

function why(reason, i) {
    var text = i ? [word('', reason.code)] : [];

    if (present(reason.identity)) {
        text.push(phrase('why_identity', { name: name(reason.identity) }));
    }

    if (present(reason.target)) {
        text.push(phrase('why_target', { name: name(reason.target) }));
    }

    if (present(reason.retry)) {
        text.push(t('why_retry', { time: duration(reason.retry) }));
    }

    return text.map(function (piece, k) {
        return k ? [lang ? '，' : ', ', piece] : piece;
    });
}


function present(value) {
    return value !== null && value !== undefined;
}


/* projects without a token, and those that soon have none */

function lacking() {
    var list = [];
    var failing = tokens_that('failing');
    var stales = tokens_that('stale');

    if (failing.length) {
        list.push({ key: 'can_partly', cause: failing[0].cause,
                    why: t('why_failing', { n: failing.length }) });
    }

    if (stales.length) {
        list.push({ key: 'can_soon_not', cause: stales[0].cause,
                    why: t('why_stale', { n: stales.length }) });
        list.push({ key: 'can_soon_not', why: t('why_stale_end', {
            time: duration(least(stales)) }) });
    }

    return list;
}


/* how long the first of some tokens can still be used */

function least(tokens) {
    return Math.min.apply(null, tokens.map(function (token) {
        return token.usable;
    }));
}


/* what somebody should see to, though stops go on */

function care() {
    var list = [];

    lacking().forEach(function (one) {
        list.push(one);
    });

    data.audit.forEach(function (one) {
        if (one.state === 'failing') {
            list.push({ key: 'can_care', why: phrase(one.error
                ? 'why_lost' : 'why_lost_plain', { target: name(one.target),
                error: name(one.error || '') }) });
        }

        if (!one.owner) {
            list.push({ key: 'can_care', why: phrase('why_foreign',
                { target: name(one.target) }) });
        }
    });

    if (data.cdm.state === 'failing') {
        list.push({ key: 'can_care', why: t('why_cdm') });
    }

    return list;
}


/* what there is, and for how long */

function soon() {
    var good = tokens_that('good');
    var kept = good.filter(function (token) {
        return token.used || token.renew_in > 0;
    });
    var list = [];

    if (good.length) {
        list.push(t('why_tokens', { n: good.length }));
    }

    if (kept.length) {
        list.push(t('why_nearest', { time: duration(least(kept)) }));
    }

    if (data.ready.ok && !data.tokens.length) {
        list.push(t('why_none_yet'));
    }

    if (data.waiting.requests) {
        list.push(t('why_waiting', { n: data.waiting.requests }));
    }

    return list;
}


/* all of it */

function show() {
    var root = document.documentElement;

    headline();
    fresh();

    if (!data) {
        return;
    }

    $('all').hidden = false;

    if (!trouble) {
        root.classList.remove('beat');
        void root.offsetWidth;
        root.classList.add('beat');
    }

    plots();
    tokens();
    stops();
    iam();
    cdm();
    audit();
    rules();
    gateway();
}


/* language and theme: what the browser says, until somebody chooses */

function remember(key, value) {
    try {
        localStorage.setItem('cdm_stop_' + key, value);
    } catch (ignored) {
        /* forgotten with the page, then */
    }
}


function remembered(key) {
    try {
        return localStorage.getItem('cdm_stop_' + key);
    } catch (ignored) {
        return null;
    }
}


function theme(choice) {
    var dark = choice === 'dark'
        || (choice !== 'light'
            && matchMedia('(prefers-color-scheme: dark)').matches);

    document.documentElement.dataset.theme = dark ? 'dark' : 'light';
}


function language(choice) {
    lang = choice === 'zh' ? 1 : 0;
    document.documentElement.lang = lang ? 'zh-Hans' : 'en';
}


function translate() {
    Array.prototype.forEach.call(document.querySelectorAll('[data-t]'),
        function (node) {
        if (node.id !== 'state-line' || !data) {
            put(node, t(node.dataset.t));
        }
    });
}


function chosen(field, fallback) {
    var input = $('prefs').elements[field];

    input.value = fallback;

    if (!input.value) {
        input.value = input[0].value;
    }

    return input.value;
}


function begin() {
    var system = matchMedia('(prefers-color-scheme: dark)');

    chosen('theme', remembered('theme') || 'auto');
    chosen('lang', lang ? 'zh' : 'en');
    translate();
    put($('host'), location.host);

    $('prefs').addEventListener('change', function (event) {
        remember(event.target.name, event.target.value);

        if (event.target.name === 'theme') {
            theme(event.target.value);
            return;
        }

        language(event.target.value);
        translate();
        show();
    });

    $('prefs').addEventListener('submit', quiet);
    $('token-tools').addEventListener('submit', quiet);

    system.addEventListener('change', function () {
        theme($('prefs').elements.theme.value);
    });

    $('filter').addEventListener('input', changed);
    $('sort').addEventListener('change', changed);

    $('token-more').addEventListener('click', function () {
        allTokens = !allTokens;
        changed();
    });

    $('stop-more').addEventListener('click', function () {
        allStops = !allStops;
        changed();
    });

    document.addEventListener('visibilitychange', function () {
        if (!document.hidden) {
            opened = Date.now();
            ask();
        }
    });

    setInterval(fresh, 1000);
    ask();
}


/* how many rows are shown unasked */

function few() {
    return matchMedia('(max-width: 640px)').matches ? FEW_ON_PHONE
        : matchMedia('(min-width: 1800px)').matches ? FEW_ON_WALL : FEW;
}


function changed() {
    if (data) {
        tokens();
        stops();
    }
}


function quiet(event) {
    event.preventDefault();
}


/* before anything is painted */

theme(remembered('theme') || 'auto');

language(remembered('lang')
    || (/^zh\b/i.test(navigator.language) ? 'zh' : 'en'));

if (document.readyState === 'loading') {
    document.addEventListener('DOMContentLoaded', begin);

} else {
    begin();
}
