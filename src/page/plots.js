/*
 * A plot of 60 minutes: what went well stands on the line, all else hangs from
 * it, so that nobody needs the colours.  One who does not see it has the sum
 * in its name and a table below it.
 */

var MINUTES = 60;
var HEIGHT = 100;
var LEAST = 4;                  /* the top of the scale, at the least */
var ROUND = [1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20];
var STRIPE = 2;                 /* units of the height, as is the */
var GAP = 2;                    /* ground between two */


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


/* the highest bar of some series */

function highest(series) {
    return Math.max.apply(null, stacked(series).concat(0));
}


/* a round number above the highest bar */

function roundUp(n) {
    var step = Math.pow(10, Math.max(0, Math.floor(Math.log10(n || 1)) - 1));

    while (!ROUND.some(function (r) { return r * step > n; })) {
        step *= 10;
    }

    return step * ROUND.filter(function (r) { return r * step > n; })[0];
}


/* plots that stand side by side have one scale */

function scaleOf(pairs) {
    var down = Math.max.apply(null, pairs.map(function (pair) {
        return highest(pair.down);
    }));
    var up = Math.max.apply(null, pairs.map(function (pair) {
        return highest(pair.up);
    }));

    return { up: Math.max(roundUp(up), LEAST), down: down };
}


function bars(up, down, scale) {
    var unit = HEIGHT / (scale.up + scale.down);
    var zero = scale.up * unit;
    var picture = svg('svg', { viewBox: '0 0 600 ' + HEIGHT,
                               preserveAspectRatio: 'none' });
    var i;

    for (i = 0; i <= 4; i++) {
        picture.appendChild(svg('line', { 'class': 'grid', x1: i * 150,
            x2: i * 150, y1: 0, y2: HEIGHT }));
    }

    picture.appendChild(svg('line', { 'class': 'grid', x1: 0, x2: 600,
                                      y1: 0, y2: 0 }));

    for (i = 0; i < MINUTES; i++) {
        picture.appendChild(minute(i, up, down, zero, unit));
    }

    picture.appendChild(svg('line', { 'class': 'axis', x1: 0, x2: 600,
                                      y1: zero, y2: zero }));
    return picture;
}


/* a box, or the stripes of one: the same in a bar and in the legend */

function filled(one, x, y, width, height) {
    var d = '';
    var at;

    if (!one.striped) {
        return svg('rect', { 'class': one.fill, x: x, y: y, width: width,
                             height: height });
    }

    for (at = 0; at < height; at += STRIPE + GAP) {
        d += 'M' + x + ' ' + (y + at) + 'h' + width + 'v'
            + Math.min(STRIPE, height - at) + 'h-' + width + 'z';
    }

    return svg('path', { 'class': one.fill, d: d });
}


function minute(i, up, down, zero, unit) {
    var x = i * 600 / MINUTES + 1;
    var y = zero;
    var bar = svg('g', {});
    var told = [];

    function block(one, top, height) {
        bar.appendChild(filled(one, x, top, 8, height));
        told.push(one.label + ': ' + count(one.values[i]));
    }

    up.forEach(function (one) {
        var height = (one.values[i] || 0) * unit;

        if (height > 0) {
            y -= height;
            block(one, y, height);
        }
    });

    y = zero;

    down.forEach(function (one) {
        var height = (one.values[i] || 0) * unit;

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
    return svg('svg', { viewBox: '0 0 10 10', 'aria-hidden': 'true' },
               filled(one, 0, 0, 10, 10));
}


function plot(node, pair, scale) {
    var up = pair.up;
    var down = pair.down;
    var series = up.concat(down);
    var list = series.map(function (one) {
        return count(sum(one.values)) + ' ' + one.label;
    }).join(lang ? '，' : ', ');
    var tallest;

    if (!node.firstChild) {
        fill(node, el('div', { 'class': 'plot', role: 'img' }),
             el('p', { 'class': 'scale', 'aria-hidden': 'true' }),
             el('ul', { 'class': 'legend', 'aria-hidden': 'true' }),
             el('details', {}, el('summary'), el('div')));
    }

    once(node.children[0], [series, scale], function () {
        return [el('span', { 'class': 'top' }, count(scale.up)),
                bars(up, down, scale)];
    });

    node.children[0].setAttribute('aria-label', t('plot_of', { list: list }));

    tallest = Math.max(highest(up), highest(down));

    once(node.children[1], tallest, function () {
        return [el('span', {}, t('minutes_ago', { n: 60 })),
                el('span', {}, tallest ? t('per_minute', { n: tallest })
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
    var decided = {
        up: [{ label: t('allowed'), fill: 'f-ok', values: data.hour.allow }],
        down: [{ label: t('denied'), fill: 'f-quiet',
                 values: data.hour.deny },
               { label: t('undecided'), fill: 'f-quiet', striped: true,
                 values: data.hour.none }]
    };
    var became = {
        up: [{ label: t('v_stopped'), fill: 'f-ok', values: verdicts.stopped },
             { label: t('v_already_stopped'), fill: 'f-ok', striped: true,
               values: verdicts.already_stopped }],
        down: [{ label: t('v_other'), fill: 'f-bad', values: rest },
               { label: t('v_unknown'), fill: 'f-bad', striped: true,
                 values: verdicts.unknown },
               { label: t('v_not_sent'), fill: 'f-quiet',
                 values: verdicts.not_sent }]
    };
    var scale = scaleOf([decided, became]);

    plot($('plot-decisions'), decided, scale);
    plot($('plot-verdicts'), became, scale);
}
