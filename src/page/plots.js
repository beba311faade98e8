/*
 * A plot of 60 minutes: what went well stands on the line, all else hangs from
 * it, so that nobody needs the colours.  One who does not see it has the sum
 * in its name and a table below it.
 */

var MINUTES = 60;
var HEIGHT = 100;
var LEAST = 4;                  /* so much fills the height at the least */


function sum(values) {
    return values.reduce(function (a, b) { return a + (b || 0); }, 0);
}


/* the sum of some series, minute by minute */

function stacked(series) {
    var total = [];
    var i;

    for (i = 0; i < MINUTES; i++) {
        total.push(sum(series.map(function (one) { return one.values[i]; })));
    }

    return total;
}


function bars(up, down) {
    var highest = Math.max.apply(null, stacked(up).concat(1));
    var lowest = Math.max.apply(null, stacked(down).concat(0));
    var scale = HEIGHT / Math.max(highest + lowest, LEAST);
    var zero = HEIGHT - lowest * scale;
    var picture = svg('svg', { viewBox: '0 0 600 ' + HEIGHT,
                               preserveAspectRatio: 'none' });
    var i;

    for (i = 0; i <= 4; i++) {
        picture.appendChild(svg('line', { 'class': 'grid', x1: i * 150,
            x2: i * 150, y1: 0, y2: HEIGHT }));
    }

    for (i = 0; i < MINUTES; i++) {
        picture.appendChild(minute(i, up, down, zero, scale));
    }

    picture.appendChild(svg('line', { 'class': 'axis', x1: 0, x2: 600,
                                      y1: zero, y2: zero }));
    return picture;
}


function minute(i, up, down, zero, scale) {
    var x = i * 600 / MINUTES + 1;
    var y = zero;
    var bar = svg('g', {});
    var told = [];

    function block(one, top, height) {
        var box = { 'class': one.fill, x: x, y: top, width: 8,
                    height: height };
        var j;

        bar.appendChild(svg('rect', box));

        for (j = 1; one.hatch && j < height; j += 5) {
            bar.appendChild(svg('line', { 'class': 'hatch', x1: x, x2: x + 8,
                y1: top + j, y2: top + j }));
        }

        told.push(one.label + ': ' + count(one.values[i]));
    }

    up.forEach(function (one) {
        var height = (one.values[i] || 0) * scale;

        if (height > 0) {
            y -= height;
            block(one, y, height);
        }
    });

    y = zero;

    down.forEach(function (one) {
        var height = (one.values[i] || 0) * scale;

        if (height > 0) {
            block(one, y, height);
            y += height;
        }
    });

    if (told.length) {
        told.unshift(i === MINUTES - 1 ? t('now')
                     : t('minutes_ago', { n: MINUTES - 1 - i }));
        bar.appendChild(titled(told.join('\n')));
    }

    return bar;
}


function titled(text) {
    var title = svg('title', {});

    title.textContent = text;
    return title;
}


function swatch(one) {
    var box = svg('svg', { viewBox: '0 0 10 10', 'aria-hidden': 'true' },
        svg('rect', { 'class': one.fill, width: 10, height: 10 }));

    if (one.hatch) {
        box.appendChild(svg('path', { 'class': 'hatch',
                                      d: 'M0 2.5h10M0 7.5h10' }));
    }

    return box;
}


function plot(node, up, down) {
    var series = up.concat(down);
    var list = series.map(function (one) {
        return count(sum(one.values)) + ' ' + one.label;
    }).join(lang ? '，' : ', ');

    if (!node.firstChild) {
        fill(node, el('div', { 'class': 'plot', role: 'img' }),
             el('p', { 'class': 'scale', 'aria-hidden': 'true' }),
             el('ul', { 'class': 'legend', 'aria-hidden': 'true' }),
             el('details', {}, el('summary'), el('div')));
    }

    once(node.children[0], series, function () {
        return bars(up, down);
    });

    node.children[0].setAttribute('aria-label', t('plot_of', { list: list }));

    once(node.children[1], sum(stacked(series)), function () {
        return [el('span', {}, t('minutes_ago', { n: 60 })),
                el('span', {}, sum(stacked(series)) ? t('per_minute',
                    { n: Math.max.apply(null, stacked(series)) })
                    : t('nothing')),
                el('span', {}, t('now'))];
    });

    once(node.children[2], series, function () {
        return series.map(function (one) {
            return el('li', {}, swatch(one), one.label, ' ',
                      el('b', {}, count(sum(one.values))));
        });
    });

    put(node.querySelector('summary'), t('as_table'));

    once(node.querySelector('details > div'), series, function () {
        return plotTable(series);
    });
}


/* ten minutes in a row, the newest first */

function plotTable(series) {
    var body = el('tbody');
    var from;

    for (from = 0; from < MINUTES; from += 10) {
        add(body, [el('tr', {},
            el('th', { scope: 'row' }, from + '–' + (from + 9)),
            series.map(function (one) {
                return el('td', { 'class': 'num' }, count(sum(
                    one.values.slice(MINUTES - from - 10, MINUTES - from))));
            }))]);
    }

    return el('table', {},
        el('thead', {}, el('tr', {}, el('th', { scope: 'col' }, t('minutes')),
            series.map(function (one) {
                return el('th', { scope: 'col', 'class': 'num' }, one.label);
            }))),
        body);
}


function plots() {
    var verdicts = data.hour.verdicts;
    var rest = stacked(Object.keys(verdicts).filter(function (verdict) {
        return verdict !== 'stopped' && verdict !== 'already_stopped'
            && verdict !== 'unknown' && verdict !== 'not_sent';
    }).map(function (verdict) {
        return { values: verdicts[verdict] };
    }));

    plot($('plot-decisions'),
        [{ label: t('allowed'), fill: 'f-ok', values: data.hour.allow }],
        [{ label: t('denied'), fill: 'f-bad', values: data.hour.deny },
         { label: t('undecided'), fill: 'f-early', hatch: true,
           values: data.hour.none }]);

    plot($('plot-verdicts'),
        [{ label: t('v_stopped'), fill: 'f-ok', values: verdicts.stopped },
         { label: t('v_already_stopped'), fill: 'f-hollow',
           values: verdicts.already_stopped }],
        [{ label: t('v_other'), fill: 'f-bad', values: rest },
         { label: t('v_unknown'), fill: 'f-odd', hatch: true,
           values: verdicts.unknown },
         { label: t('v_not_sent'), fill: 'f-warn',
           values: verdicts.not_sent }]);
}
