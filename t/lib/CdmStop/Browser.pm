package CdmStop::Browser;

=head1 NAME

CdmStop::Browser - a real Chromium, driven by WebDriver

=head1 SYNOPSIS

    my $b = CdmStop::Browser->new(dir => $dir);
    $b->size(1280, 900);                        # width, height[, mobile]
    $b->prefers(theme => 'dark', language => 'zh-CN');
    $b->open("http://127.0.0.1:$port/status");
    is($b->text('#state-line'), 'Stops are possible');
    $b->click('#token-more');
    $b->keys('#filter', 'abc');                 # typed into an element
    $b->press('Tab');                           # to what has the focus
    my $value = $b->js('return document.title');
    $b->screenshot($file);                      # all of the page
    my @tree = $b->accessibility;               # [{role, name}, ...]
    is_deeply([$b->complaints], []);            # console and CSP
    my @urls = $b->requested;                   # each one, of the network log

Chromium and chromedriver are children of the test and end with it.

=cut

use strict;
use warnings;

use File::Path ();
use HTTP::Tiny;
use JSON::PP ();
use MIME::Base64 ();
use Time::HiRes qw(time sleep);

use CdmStop::Ports;
use CdmStop::Process;

use constant ELEMENT => 'element-6066-11e4-a52e-4f735466cecf';

# keys that WebDriver has numbers for
my %KEY = (Tab => "\x{e004}", Enter => "\x{e007}", Space => "\x{e00d}",
    Left => "\x{e012}", Up => "\x{e013}", Right => "\x{e014}",
    Down => "\x{e015}", Shift => "\x{e008}", Escape => "\x{e00c}");

# What the page gets to see of itself before its own script runs.

my $WATCH = <<'EOJ';
window.cdmStopSeen = [];
document.addEventListener('securitypolicyviolation', function (e) {
    window.cdmStopSeen.push('policy: ' + e.violatedDirective + ' '
        + e.blockedURI + ' ' + e.sample);
});
window.addEventListener('error', function (e) {
    window.cdmStopSeen.push('error: ' + e.message);
});
window.addEventListener('unhandledrejection', function (e) {
    window.cdmStopSeen.push('rejection: ' + e.reason);
});
EOJ

# dir: for the profile and logs; timeout: of one command; arguments and env:
# more of Chromium's.

sub new {
    my ($class, %opt) = @_;

    my $self = bless { timeout => 120, %opt }, $class;

    File::Path::make_path("$self->{dir}/profile");
    $self->{http} = HTTP::Tiny->new(timeout => $self->{timeout},
                                    proxy => undef, http_proxy => undef);
    $self->start_chromium;
    $self->start_driver;
    $self->start_session;

    return $self;
}

# Started here and not by the driver, so that it cannot outlive the test.

sub start_chromium {
    my ($self) = @_;

    $self->{debug_port} = CdmStop::Ports::take();
    $self->{chromium} = CdmStop::Process::run_in_background(
        ['/usr/bin/chromium', '--headless=new', '--no-sandbox',
         '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run',
         '--disable-extensions', '--disable-background-networking',
         '--disable-component-update', '--disable-sync', '--mute-audio',
         '--disable-breakpad', '--hide-scrollbars', '--no-proxy-server',
         '--force-device-scale-factor=1', '--font-render-hinting=none',
         '--lang=en-US', '--disable-features=Translate',
         "--user-data-dir=$self->{dir}/profile",
         "--remote-debugging-port=$self->{debug_port}",
         @{ $self->{arguments} // [] }, 'about:blank'],
        stdout => "$self->{dir}/chromium.log",
        stderr => "$self->{dir}/chromium.log",
        env => { HOME => "$self->{dir}/profile", %{ $self->{env} // {} } });

    $self->answers("http://127.0.0.1:$self->{debug_port}/json/version",
                   'chromium');

    return;
}

sub start_driver {
    my ($self) = @_;

    my $port = CdmStop::Ports::take();

    $self->{driver} = CdmStop::Process::run_in_background(
        ['/usr/bin/chromedriver', "--port=$port"],
        stdout => "$self->{dir}/chromedriver.log",
        stderr => "$self->{dir}/chromedriver.log");
    $self->{base} = "http://127.0.0.1:$port";
    $self->answers("$self->{base}/status", 'chromedriver');

    return;
}

sub answers {
    my ($self, $url, $what) = @_;

    my $deadline = time + $self->{timeout};

    until ($self->{http}->get($url)->{success}) {
        die "$what does not answer at $url\n" if time > $deadline;
        sleep 0.05;
    }

    return;
}

sub start_session {
    my ($self) = @_;

    my $answer = $self->request(POST => '/session', {
        capabilities => { alwaysMatch => {
            browserName => 'chrome',
            'goog:loggingPrefs' => { browser => 'ALL', performance => 'ALL' },
            'goog:chromeOptions' => {
                debuggerAddress => "127.0.0.1:$self->{debug_port}" },
        } },
    });

    $self->{base} .= "/session/$answer->{sessionId}";
    $self->cdp('Page.addScriptToEvaluateOnNewDocument', source => $WATCH);

    return;
}

sub request {
    my ($self, $method, $path, $body) = @_;

    my $answer = $self->{http}->request($method, $self->{base} . $path, {
        $body ? (content => JSON::PP->new->utf8->encode($body),
                 headers => { 'content-type' => 'application/json' }) : () });
    my $json = eval { JSON::PP->new->utf8->decode($answer->{content}) }
        or die "$method $path: $answer->{status} $answer->{content}\n";

    die "$method $path: $json->{value}{error}: $json->{value}{message}\n"
        if !$answer->{success};

    return $json->{value};
}

# a command of the DevTools protocol

sub cdp {
    my ($self, $command, %params) = @_;

    return $self->request(POST => '/goog/cdp/execute',
                          { cmd => $command, params => \%params });
}

sub size {
    my ($self, $width, $height, $mobile) = @_;

    $self->cdp('Emulation.setDeviceMetricsOverride', width => $width,
        height => $height, deviceScaleFactor => 1,
        mobile => $mobile ? $JSON::PP::true : $JSON::PP::false);

    return $self;
}

# What the user has told the browser, or the system, to prefer.

sub prefers {
    my ($self, %what) = @_;

    $self->{theme} = $what{theme} if $what{theme};
    $self->{motion} = $what{motion} if $what{motion};
    $self->cdp('Emulation.setEmulatedMedia', features => [
        { name => 'prefers-color-scheme', value => $self->{theme} // 'light' },
        { name => 'prefers-reduced-motion',
          value => $self->{motion} // 'reduce' }]);

    if ($what{language}) {
        $self->{agent} //= $self->js('return navigator.userAgent');
        $self->cdp('Emulation.setUserAgentOverride',
            userAgent => $self->{agent}, acceptLanguage => $what{language});
    }

    $self->cdp('Emulation.setTimezoneOverride', timezoneId => 'UTC');

    return $self;
}

sub open {
    my ($self, $url) = @_;

    $self->keep_complaints;
    $self->request(POST => '/url', { url => $url });

    return $self;
}

sub js {
    my ($self, $script, @arguments) = @_;

    return $self->request(POST => '/execute/sync',
                          { script => $script, args => \@arguments });
}

sub find {
    my ($self, $selector) = @_;

    return $self->request(POST => '/element', {
        using => 'css selector', value => $selector })->{ +ELEMENT };
}

# as a reader sees it: nothing of what is hidden

sub text {
    my ($self, $selector) = @_;

    return $self->js('var e = document.querySelector(arguments[0]);'
        . 'return e && e.innerText.trim()', $selector);
}

sub click {
    my ($self, $selector) = @_;

    $self->request(POST => '/element/' . $self->find($selector) . '/click',
                   {});
    return $self;
}

sub keys {
    my ($self, $selector, $text) = @_;

    my $path = '/element/' . $self->find($selector);

    $self->request(POST => "$path/clear", {})
        if $self->js('var e = document.querySelector(arguments[0]);'
                   . 'return !!e.value', $selector);
    $self->request(POST => "$path/value", { text => $text }) if length $text;

    return $self;
}

# Keys by their names, or characters, to what has the focus.

sub press {
    my ($self, @keys) = @_;

    my @actions;

    for my $key (@keys) {
        my @chord = map { $KEY{$_} // $_ } split /\+/, $key;

        push @actions, map({ { type => 'keyDown', value => $_ } } @chord),
            map { { type => 'keyUp', value => $_ } } reverse @chord;
    }

    $self->request(POST => '/actions', { actions => [
        { type => 'key', id => 'keyboard', actions => \@actions }] });

    return $self;
}

sub wait_until {
    my ($self, $script, @arguments) = @_;

    my $deadline = time + $self->{timeout};

    for (;;) {
        my $value = $self->js($script, @arguments);

        return $value if $value;
        die "the page did not come to: $script\n" if time > $deadline;
        sleep 0.05;
    }
}

# All of the page, or as much of it as is allowed.

sub screenshot {
    my ($self, $file, $tallest) = @_;

    my $size = $self->cdp('Page.getLayoutMetrics')->{cssContentSize};

    $size->{height} = $tallest if $tallest && $size->{height} > $tallest;

    my $shot = $self->cdp('Page.captureScreenshot', format => 'png',
        captureBeyondViewport => $JSON::PP::true, optimizeForSpeed =>
        $JSON::PP::false, clip => { x => 0, y => 0, scale => 1,
        width => $size->{width}, height => $size->{height} });

    CORE::open my $out, '>:raw', $file or die "$file: $!\n";
    print {$out} MIME::Base64::decode_base64($shot->{data});
    close $out or die "$file: $!\n";

    return -s $file;
}

# What a screen reader is told of: role and name of what is not ignored.

sub accessibility {
    my ($self) = @_;

    $self->cdp('Accessibility.enable');
    my $nodes = $self->cdp('Accessibility.getFullAXTree')->{nodes};

    return map {
        { role => $_->{role}{value} // '', name => $_->{name}{value} // '',
          map { $_->{name} => $_->{value}{value} } @{ $_->{properties} // [] } }
    } grep { !$_->{ignored} } @$nodes;
}

# Errors, warnings, and what the policy forbade, of all pages so far.

sub complaints {
    my ($self) = @_;

    $self->keep_complaints;

    return @{ $self->{complaints} // [] };
}

sub keep_complaints {
    my ($self) = @_;

    my $log = $self->request(POST => '/se/log', { type => 'browser' });
    my $seen = $self->js('var seen = window.cdmStopSeen || [];'
        . 'window.cdmStopSeen = []; return seen');

    push @{ $self->{complaints} }, @$seen, map { "$_->{level}: $_->{message}" }
        grep { $_->{level} =~ /SEVERE|WARNING/ } @$log;

    return;
}

sub forget_complaints {
    my ($self) = @_;

    $self->keep_complaints;
    $self->{complaints} = [];

    return $self;
}

# All addresses that were asked for since the last call, by the network log.

sub requested {
    my ($self) = @_;

    my $log = $self->request(POST => '/se/log', { type => 'performance' });
    my @urls;

    for my $entry (@$log) {
        my $message = JSON::PP->new->decode($entry->{message})->{message};

        push @urls, $message->{params}{request}{url}
            if $message->{method} eq 'Network.requestWillBeSent';
    }

    return @urls;
}

sub stop {
    my ($self) = @_;

    for my $name (qw(driver chromium)) {
        my $pid = delete $self->{$name} or next;
        CdmStop::Process::end($pid);
    }

    return;
}

1;
