/* IAM, CDM, audit, rules and the gateway itself */

var ANSWERS = ['2xx', '3xx', '401', '4xx', '5xx', 'none'];

var HEALTH = { ok: 'good', failing: 'poor', refused: 'poor', idle: 'idle' };


function item(title, kind, text) {
    return el('div', { 'class': 'item' },
        el('p', {}, title, ' ', state(kind, text)),
        Array.prototype.slice.call(arguments, 3));
}


function timing(of) {
    return of.count ? t('latency_of', { p50: latency(of.p50),
                                        p99: latency(of.p99) }) : '–';
}


/* how long ago, and how often in a row */

function failures(then, n) {
    return then === null ? null : n
        ? t('in_a_row', { ago: ago(then), n: n }) : ago(then);
}


function iam() {
    once($('iam'), [data.identities, Math.floor(data.time)], function () {
        return data.identities.map(identity);
    });
}


function identity(one) {
    var issue = one.requests.issue;
    var verify = one.requests.verify;
    var calls = sum(Object.keys(issue).map(function (k) { return issue[k]; }));
    var checks = one.latency.verify.count || verify.refused || verify.ok;
    var failed = verify.unreachable + verify.answer + verify.throttled
        + verify.via + verify.local;

    return item(name(one.name), own(HEALTH, one.state, 'idle'),
        one.cause && known('c_' + one.cause) ? t('c_' + one.cause)
            : word('', one.state),
        el('p', { 'class': 'note' }, name(one.iam)),
        facts([
            [t('projects'), t('projects_of', one.projects)],
            calls ? [t('issued'), t('calls_of', { ok: issue.ok, n: calls })]
                : null,
            one.latency.issue.count
                ? [t('latency'), timing(one.latency.issue)] : null,
            one.last_success !== null
                ? [t('last_success'), ago(one.last_success)] : null,
            one.last_failure !== null
                ? [t('last_failure'),
                   failures(one.last_failure, one.failures_in_row)] : null,
            one.retry !== null
                ? [t('next_try'), t('in_time', { time: duration(one.retry) })]
                : null,
            checks || failed
                ? [t('callers'), t('callers_of', { ok: verify.ok,
                    refused: verify.refused, failed: failed })] : null,
            one.verifying.in_flight
                ? [t('in_flight'), t('of_max', { n: one.verifying.in_flight,
                    max: one.verifying.max })] : null
        ]));
}


function cdm() {
    var one = data.cdm;

    once($('cdm'), [one, Math.floor(data.time)], function () {
        var answers = ANSWERS.filter(function (code) {
            return one.responses[code];
        }).map(function (code) {
            return (code === 'none' ? t('none') : code) + ':\u00a0'
                + count(one.responses[code]);
        }).join(lang ? '，' : ', ');

        return item(t('sent') + (lang ? '：' : ': ') + count(one.requests),
            own(HEALTH, one.state, 'idle'),
            one.state === 'idle' ? t('cdm_idle')
                : one.state === 'failing' ? t('cdm_failing')
                : word('', one.state),
            facts([
                answers ? [t('answers'), answers] : null,
                one.latency.count ? [t('latency'), timing(one.latency)] : null,
                one.repeats ? [t('repeats'), count(one.repeats)] : null,
                one.unreachable
                    ? [t('no_connection'), count(one.unreachable)] : null,
                one.last_answer !== null
                    ? [t('last_answer'), ago(one.last_answer)] : null,
                one.last_failure !== null
                    ? [t('last_failure'),
                       failures(one.last_failure, one.failures_in_row)] : null
            ]));
    });
}


function audit() {
    once($('audit'), [data.audit, Math.floor(data.time)], function () {
        return data.audit.length ? data.audit.map(target)
            : el('p', { 'class': 'empty' }, t('audit_off'));
    });
}


function target(one) {
    var how = [t(one.required ? 'audit_required' : 'audit_best'),
               t(one.keyed ? 'audit_keyed' : 'audit_unkeyed')];

    if (one.signed) {
        how.push(t('signed'));
    }

    if (one.sync) {
        how.push(t('audit_sync'));
    }

    return item(el('code', {}, name(one.target)),
        one.state === 'failing' ? 'poor' : one.lost ? 'fair' : 'good',
        t(one.state === 'failing' ? 'a_failing' : 'a_ok'),
        one.error ? el('p', {}, name(one.error)) : null,
        el('p', { 'class': 'note' }, how.join(' · ')),
        one.owner ? null : el('p', {}, state('fair', t('foreign'))),
        facts([
            [t('written'), count(one.written)],
            [t('lost'), one.lost ? state('poor', t('lost_of', {
                n: one.lost, intent: one.lost_by_stage.intent,
                outcome: one.lost_by_stage.outcome,
                refused: one.lost_by_stage.refused })) : '0'],
            one.chain === null ? null
                : [t('chain'), phrase('chain_at', { seq: one.seq,
                    chain: el('code', {}, name(one.chain)) })],
            checkpoint(one),
            one.last_written === null ? null
                : [t('last_written'), ago(one.last_written)],
            one.delay.count ? [t('delay'), timing(one.delay)] : null,
            one.sync_delay.count
                ? [t('sync_delay'), timing(one.sync_delay)] : null,
            one.unsynced
                ? [t('unsynced'), state('poor', count(one.unsynced))] : null,
            [t('open'), count(one.open)]
        ]));
}


function checkpoint(one) {
    if (one.checkpoint) {
        return [t('checkpoint'), t('checkpoint_at', {
            seq: one.checkpoint.seq, ago: ago(one.checkpoint.time) })];
    }

    return one.signed && one.checkpoint === null ? [t('checkpoint'), t('none')]
        : one.signed ? null : [t('checkpoint'), t('not_signed')];
}


/* roles are said, since the head is taken out of the sight and so the table */

function column(key) {
    return el('th', { scope: 'col', role: 'columnheader' }, t(key));
}


function rules() {
    once($('rules'), data.rules, function () {
        var body = el('tbody', { role: 'rowgroup' });

        if (!data.rules.length) {
            return el('p', { 'class': 'empty' }, t('stop_empty_rules'));
        }

        data.rules.slice(0, FEW_RULES).forEach(function (rule) {
            add(body, [row(
                el('td', { role: 'cell' }, rule.rule !== null ? name(rule.rule)
                    : t(rule.policy === null ? 'no_policy' : 'by_default'),
                    el('span', { 'class': 'quiet' },
                       rule.policy === null ? null
                           : [name(rule.policy), ' · '],
                       name(rule.server), ' ', name(rule.location))),
                el('td', { role: 'cell' }, rule.decision === 'deny' ? t('denied')
                    : rule.decision === 'allow' ? t('allowed')
                    : word('', rule.decision),
                    rule.enforced ? null
                        : el('span', { 'class': 'quiet' }, t('dry_run'))),
                el('td', { role: 'cell', 'class': 'num' },
                   count(rule.count)))]);
        });

        return [el('table', { 'class': 'counts', role: 'table',
                              'aria-labelledby': 'h-rules' },
            el('thead', { 'class': 'sr', role: 'rowgroup' },
               row(column('th_rule'), column('th_decision'),
                   column('th_count'))),
            body),
            data.rules.length > FEW_RULES ? el('p', { 'class': 'note' },
                t('rules_beyond', { n: data.rules.length - FEW_RULES }))
                : null];
    });
}


function gateway() {
    var errors = Object.keys(data.totals.errors).map(function (code) {
        return [code, data.totals.errors[code]];
    }).sort(function (a, b) { return b[1] - a[1]; });

    once($('gateway'), [errors, data.waiting, data.workers, data.zone,
                        data.verification, data.totals.stops, data.started],
        function () {
        return [facts([
            [t('total'), count(data.totals.stops)],
            [t('since'), clock(data.started)],
            [t('waiting'), t('of_max', { n: data.waiting.requests,
                                         max: data.waiting.max })],
            [t('workers'), count(data.workers)],
            [t('memory'), t('memory_of', { free: bytes(data.zone.free),
                                           size: bytes(data.zone.size) })],
            data.zone.full ? [t('memory_full'), count(data.zone.full)] : null,
            [t('cache'), t('cache_of', data.verification)]
        ]),
        errors.length ? el('table', { 'class': 'counts' },
            el('caption', {}, t('errors')),
            el('tbody', {}, errors.map(function (error) {
                var code = /^CDMSTOP\.(\d{4})$/.exec(error[0]);

                return el('tr', {}, el('td', {}, name(error[0]),
                    code && known('e_' + code[1])
                        ? el('span', { 'class': 'quiet' }, t('e_' + code[1]))
                        : null),
                    el('td', { 'class': 'num' }, count(error[1])));
            }))) : null];
    });

    put($('built'), t('built', data.build));
    put($('zone'), t('zone', { name: new Intl.DateTimeFormat()
        .resolvedOptions().timeZone || 'UTC' }));
}
