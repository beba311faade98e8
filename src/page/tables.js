/* tokens by project, and the last stops */

var COLUMNS = { token: ['th_project', 'th_state', 'th_life', 'th_age',
                        'th_generation'],
                stop: ['th_time', 'th_job', 'th_who', 'th_why', 'th_result'] };

function cell(table, i, attributes) {
    attributes.role = 'cell';
    attributes['data-name'] = t(COLUMNS[table][i]);

    return el('td', attributes, Array.prototype.slice.call(arguments, 3));
}


function row() {
    return el('tr', { role: 'row' }, Array.prototype.slice.call(arguments));
}


/* tokens */

var STATES = {
    good: ['good', 'f-ok'],
    stale: ['fair', 'f-warn'],
    failing: ['poor', 'f-bad'],
    none: ['idle', 'f-track']
};

var URGENT = { failing: 0, stale: 1, good: 2, none: 3 };


function compare(a, b) {
    return a < b ? -1 : a > b ? 1 : 0;
}


function byProject(a, b) {
    return compare(a.project || '', b.project || '')
        || compare(a.identity, b.identity);
}


var ORDERS = {
    urgent: function (a, b) {
        return compare(own(URGENT, a.state, 4), own(URGENT, b.state, 4))
            || compare(a.usable || 0, b.usable || 0) || byProject(a, b);
    },
    project: byProject,
    identity: function (a, b) {
        return compare(a.identity, b.identity) || byProject(a, b);
    },
    newest: function (a, b) {
        return compare(b.issued || 0, a.issued || 0) || byProject(a, b);
    }
};


/* every word of the filter is in the project, the identity or the state */

function matching(tokens, filter) {
    var terms = filter.toLowerCase().split(/\s+/).filter(Boolean);

    return tokens.filter(function (token) {
        var text = [token.identity, token.project, token.state,
                    t('t_' + token.state)].join(' ').toLowerCase();

        return terms.every(function (term) {
            return text.indexOf(term) >= 0;
        });
    });
}


function tokens() {
    var found = matching(data.tokens, $('filter').value);
    var some = found.length < data.tokens.length;
    var note = some
        ? t('token_found', { n: found.length, all: data.tokens.length })
        : t('token_sum', { n: data.tokens.length });

    if (data.tokens_more) {
        note += (lang ? '，' : ', ')
            + t('token_beyond', { n: data.tokens_more });
    }

    if (!data.tokens.length) {
        note = t('token_empty');

    } else if (!found.length) {
        note = t('token_none_found');
    }

    put($('token-sum'), note);
    found.sort(own(ORDERS, $('sort').value, ORDERS.urgent));

    $('tokens').hidden = !found.length;
    $('token-tools').hidden = data.tokens.length < 2;

    more($('token-more'), found.length, allTokens);

    rows($('token-rows'), allTokens ? found : found.slice(0, few()),
         tokenView, tokenRow);
}


function more(button, n, all) {
    button.hidden = n <= few();
    button.setAttribute('aria-expanded', String(all));
    put(button, all ? t('show_few') : t('show_all', { n: n }));
}


function tokenView(token) {
    var alive = token.usable > 0 && token.life > 0;
    var kind = own(STATES, token.state, STATES.none);
    var fact = known('t_' + token.state) ? t('t_' + token.state) : token.state;
    var more = '';

    if (token.renewing) {
        fact = t('t_renewing');

    } else if (token.state === 'good' && token.renew_in === 0 && !token.used) {
        fact = t('t_unused');
        kind = ['idle', 'f-ok'];
    }

    if (token.cause) {
        more = known('c_' + token.cause) ? t('c_' + token.cause) : token.cause;
    }

    return {
        project: token.project, identity: token.identity, kind: kind,
        fact: fact, more: more,
        retry: token.cause && token.retry !== null
            ? t('why_retry', { time: duration(token.retry) }) : '',
        part: alive ? Math.round(1000 * Math.min(1, token.usable / token.life))
            : 0,
        tick: alive && token.renew_in > 0 ? Math.round(1000
            * (token.usable - token.renew_in) / token.life) : -1,
        left: alive ? t('t_left', { time: duration(token.usable) })
            : t(token.generation === null ? 't_none_left' : 't_ended'),
        renew: alive && token.renew_in > 0 && !token.renewing
            ? t('t_renew', { time: rough(token.renew_in) }) : '',
        age: token.age === null ? '–' : rough(token.age),
        generation: token.generation === null ? '–' : count(token.generation)
    };
}


function tokenRow(token) {
    var life = svg('svg', { viewBox: '0 0 1000 10',
                            preserveAspectRatio: 'none',
                            'aria-hidden': 'true' },
        svg('rect', { 'class': 'f-track', width: 1000, height: 10 }),
        svg('rect', { 'class': token.kind[1], width: token.part,
                      height: 10 }));

    if (token.tick >= 0) {
        life.appendChild(svg('line', { 'class': 'tick', x1: token.tick,
            x2: token.tick, y1: -6, y2: 16 }));
    }

    return row(
        cell('token', 0, {},
            token.project === null ? el('span', {}, t('domain_scope'))
                : el('code', {}, name(token.project)),
            el('span', { 'class': 'quiet' }, name(token.identity))),
        cell('token', 1, {}, state(token.kind[0], token.fact)),
        cell('token', 2, { 'class': 'life' }, life,
            el('div', {}, el('span', {}, token.left), ' ',
               el('span', { 'class': 'quiet' }, token.retry || token.renew)),
            token.more && el('span', { 'class': 'quiet' }, token.more)),
        cell('token', 3, { 'class': 'num' }, token.age),
        cell('token', 4, { 'class': 'num' }, token.generation));
}


/* stops */

var GOOD = { stopped: true, already_stopped: true };

var DENIED = 'CDMSTOP.0201';    /* by the policy, not by reason or rate */


function stops() {
    var last = data.last;

    $('stops').hidden = !last.length;
    more($('stop-more'), last.length, allStops);

    once($('stop-empty'), !last.length, function () {
        return last.length ? '' : t('stop_empty');
    });

    rows($('stop-rows'), allStops ? last : last.slice(0, few()),
         stopView, stopRow);
}


function stopView(stop) {
    var view = { stop: stop, time: clock(stop.time) };

    if (stop.sent) {
        view.kind = own(GOOD, stop.verdict) ? 'good'
            : stop.verdict === 'unknown' ? 'fair' : 'poor';

    } else {
        view.kind = stop.status >= 500 ? 'poor' : 'idle';
    }

    return view;
}


function stopRow(view) {
    var stop = view.stop;

    return row(
        cell('stop', 0, {}, el('div', {}, view.time,
            el('span', { 'class': 'quiet' }, id(stop.request_id)))),
        cell('stop', 1, {}, stopJob(stop)),
        cell('stop', 2, {}, stop.principal === null
            ? el('span', { 'class': 'quiet' }, t('nobody'))
            : name(stop.principal)),
        cell('stop', 3, {}, el('div', {}, stopWhy(stop))),
        cell('stop', 4, {}, el('div', {}, stopResult(view, stop))));
}


function stopJob(stop) {
    if (stop.job === null) {
        return el('span', { 'class': 'quiet' }, t('not_a_stop'));
    }

    return el('div', {}, name(stop.job),
        el('span', { 'class': 'quiet' }, id(stop.project), ' / ',
           id(stop.cluster)));
}


function stopWhy(stop) {
    var rule = null;

    if (stop.rule !== null) {
        rule = phrase('by_rule', { name: name(stop.rule) });

    } else if (stop.decision === 'allow') {
        rule = t('no_policy');

    } else if (stop.decision !== null
               && (stop.code === null || stop.code === DENIED))
    {
        rule = t('by_default');
    }

    return [
        stop.reason === null ? null : name(stop.reason),
        rule && el('span', { 'class': 'quiet' }, rule),
        stop.reason === null && !rule
            ? el('span', { 'class': 'quiet' }, t('no_reason')) : null,
        stop.enforced ? null : el('span', { 'class': 'quiet' }, t('dry_run'))
    ];
}


function stopResult(view, stop) {
    var code = stop.code && /^CDMSTOP\.(\d{4})$/.exec(stop.code);
    var more = [el('span', {}, String(stop.status))];

    if (stop.code) {
        more.push(' ', name(stop.code));
    }

    if (code && known('e_' + code[1])) {
        more.push(lang ? '：' : ': ', t('e_' + code[1]));
    }

    if (stop.attempts > 1) {
        more.push(' · ', t('sent_twice', { n: stop.attempts }));
    }

    if (stop.sent) {
        more.push(' · ', el('span', { 'class': 'whole' },
                            latency(stop.duration)));
    }

    return [
        state(view.kind, stop.sent ? word('v_', stop.verdict)
              : t('refused_by_gateway')),
        el('span', { 'class': 'quiet' }, more)
    ];
}
