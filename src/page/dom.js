/* words, numbers and elements: what the rest of the page is made with */

var SVG = 'http://www.w3.org/2000/svg';


/* words */

function own(table, key, fallback) {
    return Object.prototype.hasOwnProperty.call(table, key) ? table[key]
        : fallback;
}


function known(key) {
    return own(WORDS, key) !== undefined;
}


/* what the gateway calls by a name of its own, as such if it is a new one */

function word(prefix, value) {
    return known(prefix + value) ? t(prefix + value) : name(value);
}


function t(key, args) {
    var text = known(key) ? WORDS[key][lang] : key;
    var forms = text.split('|');

    if (forms.length > 1) {
        text = forms[args && args.n === 1 ? 0 : 1];
    }

    return text.replace(/\{(\w+)\}/g, function (all, name) {
        var value = args ? args[name] : undefined;
        return value === undefined ? all
            : typeof value === 'number' ? count(value) : value;
    });
}


/* the same with elements in it: returns a list of nodes */

function phrase(key, args) {
    var text = known(key) ? WORDS[key][lang] : key;
    var forms = text.split('|');

    if (forms.length > 1) {
        text = forms[args.n === 1 ? 0 : 1];
    }

    return text.split(/(\{\w+\})/).map(function (piece) {
        var match = /^\{(\w+)\}$/.exec(piece);
        var value = match ? args[match[1]] : piece;

        return typeof value === 'number' ? count(value) : value;
    });
}


function count(n) {
    return n.toLocaleString(lang ? 'zh-CN' : 'en');
}


function duration(s) {
    var unit, small;

    if (s < 0 || s !== s) {
        s = 0;
    }

    if (s < 1) {
        return lang ? '不到 1 秒' : 'less than a second';
    }

    if (s < 90) {
        return Math.floor(s) + (lang ? ' 秒' : ' s');
    }

    if (s < 5400) {
        return Math.floor(s / 60) + (lang ? ' 分钟' : ' min');
    }

    if (s < 48 * 3600) {
        unit = Math.floor(s / 3600);
        small = Math.floor(s % 3600 / 60);
        return unit + (lang ? ' 小时' : ' h')
            + (unit < 12 && small
                ? ' ' + small + (lang ? ' 分钟' : ' min') : '');
    }

    return Math.floor(s / 86400) + (lang ? ' 天' : ' days');
}


/* without minutes beside hours */

function rough(s) {
    return duration(s < 5400 ? s : Math.floor(s / 3600) * 3600);
}


/* of answers */

function latency(s) {
    if (s === null || s === undefined) {
        return '–';
    }

    if (s < 0.001) {
        return Math.round(s * 1e6) + (lang ? ' 微秒' : ' µs');
    }

    if (s < 1) {
        return (s < 0.01 ? (s * 1000).toFixed(1) : Math.round(s * 1000))
            + (lang ? ' 毫秒' : ' ms');
    }

    return (s < 10 ? s.toFixed(1) : Math.round(s)) + (lang ? ' 秒' : ' s');
}


function ago(then) {
    return t('ago', { time: duration(data.time - then) });
}


function bytes(n) {
    var units = ['B', 'KB', 'MB', 'GB'];
    var i = 0;

    while (n >= 1000 && i < 3) {
        n /= 1024;
        i++;
    }

    return (n < 10 && i ? n.toFixed(1) : Math.round(n)) + ' ' + units[i];
}


function clock(when) {
    var d = new Date(when * 1000);
    var today = new Date(data.time * 1000);
    var how = { hour: '2-digit', minute: '2-digit', second: '2-digit',
                hourCycle: 'h23' };

    if (d.toDateString() !== today.toDateString()) {
        how.month = 'short';
        how.day = 'numeric';
    }

    return new Intl.DateTimeFormat(lang ? 'zh-CN' : 'en-GB', how).format(d);
}


/* elements; attributes have names of our own and no data as links */

function el(tag, attributes) {
    var node = document.createElement(tag);
    var i;

    for (i in attributes) {
        node.setAttribute(i, attributes[i]);
    }

    add(node, Array.prototype.slice.call(arguments, 2));
    return node;
}


function add(node, children) {
    children.forEach(function (child) {
        if (child === null || child === undefined || child === '') {
            return;
        }

        if (Array.isArray(child)) {
            add(node, child);

        } else if (child.nodeType) {
            node.appendChild(child);

        } else {
            node.appendChild(document.createTextNode(String(child)));
        }
    });
}


function svg(tag, attributes) {
    var node = document.createElementNS(SVG, tag);
    var i;

    for (i in attributes) {
        node.setAttribute(i, attributes[i]);
    }

    for (i = 2; i < arguments.length; i++) {
        node.appendChild(arguments[i]);
    }

    return node;
}


function $(id) {
    return document.getElementById(id);
}


function put(node, text) {
    if (node.textContent !== text) {
        node.textContent = text;
    }
}


function fill(node) {
    while (node.firstChild) {
        node.removeChild(node.firstChild);
    }

    add(node, Array.prototype.slice.call(arguments, 1));
}


/*
 * A text of strangers: isolated, so that it reorders nothing around it; what
 * cannot be seen or would reorder the text itself is shown by its number.
 */

var UNSEEN = new RegExp('([\\u0000-\\u001f\\u007f-\\u009f\\u00ad\\u061c\\u115f'
    + '\\u1160\\u17b4\\u17b5\\u180b-\\u180f\\u200b-\\u200f\\u2028-\\u202f'
    + '\\u205f-\\u206f\\u3164\\ufeff\\uffa0\\ufff0-\\ufffb\\ud800-\\udfff'
    + '\\u{e0000}-\\u{e007f}])', 'u');

function name(text, attributes) {
    var node = el('bdi', attributes || {});

    String(text).split(UNSEEN).forEach(function (piece, i) {
        if (i % 2) {
            piece = piece.codePointAt(0).toString(16).toUpperCase();
            node.appendChild(el('span', { 'class': 'ctl' },
                'U+' + ('0000' + piece).slice(-Math.max(4, piece.length))));

        } else {
            add(node, [piece]);
        }
    });

    return node;
}


/* an id: short for the eye, whole for a reader, a search and a copy */

function id(text) {
    return el('code', { 'class': 'id' }, name(text));
}


/* a state has a shape and a word beside its colour */

var SHAPES = {
    good: 'M6.2 14.2 .9 8.7l1.9-1.9 3.4 3.4L13.3 2l2 1.8z',
    fair: 'M8 1.2 15.6 15H.4zM7.1 6v4.6h1.8V6zm0 5.6v1.8h1.8v-1.8z',
    poor: 'M1.8 3.7 3.7 1.8 8 6.1l4.3-4.3 1.9 1.9L9.9 8l4.3 4.3-1.9 1.9'
        + 'L8 9.9l-4.3 4.3-1.9-1.9L6.1 8z',
    idle: 'M1.5 7h13v2h-13z'
};

function shape(kind) {
    return svg('path', { d: SHAPES[kind], 'fill-rule': 'evenodd' });
}


function sign(kind) {
    return svg('svg', { 'class': 'sign', viewBox: '0 0 16 16',
                        'aria-hidden': 'true' }, shape(kind));
}


function state(kind, text) {
    return el('span', { 'class': kind === 'idle' ? 'quiet' : kind },
              sign(kind), text);
}


function facts(list) {
    var dl = el('dl', { 'class': 'facts' });

    list.forEach(function (fact) {
        if (fact) {
            add(dl, [el('dt', {}, fact[0]), el('dd', {}, fact[1])]);
        }
    });

    return dl;
}


/*
 * Rows by key: one that says the same stays, so a selection, the focus and a
 * reader's place survive.
 */

function rows(body, items, view, make) {
    var old = Object.create(null);
    var place = body.firstChild;

    Array.prototype.forEach.call(body.children, function (row) {
        (old[row.shown] = old[row.shown] || []).push(row);
    });

    items.forEach(function (item) {
        var shown = view(item);
        var sum = lang + JSON.stringify(shown);
        var row = (old[sum] || []).shift();

        if (!row) {
            row = make(shown);
            row.shown = sum;
        }

        if (row === place) {
            place = place.nextSibling;

        } else {
            body.insertBefore(row, place);
        }
    });

    Object.keys(old).forEach(function (sum) {
        old[sum].forEach(function (row) {
            body.removeChild(row);
        });
    });
}


/* replaces what is in a node only if what it shows has changed */

function once(node, shown, make) {
    var sum = lang + JSON.stringify(shown);

    if (node.shown !== sum) {
        node.shown = sum;
        fill(node, make());
    }
}
