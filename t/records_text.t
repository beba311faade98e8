#!/usr/bin/perl

# Texts in records, byte by byte: whatever their length, and wherever in them
# a character is that is not written as it is. What a record has is compared
# with what an encoder of this test makes of the same bytes.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Http;
use CdmStop::Test;

my $t = CdmStop::Test->new(timeout => 60);
my $iam = $t->iam;

$t->config(<<'EOC');
%%GLOBALS%%
worker_processes 1;
events { worker_connections 512; }
http {
    %%HTTP_GLOBALS%%
    keepalive_requests 1000000;
    cdm_stop_zone cdm:1m;
    cdm_stop_iam huawei {
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        method         password;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       any;
    }
    cdm_stop_verify             off;
    cdm_stop_anonymous          on;
    cdm_stop_insecure_upstream  on;

    server {
        listen 127.0.0.1:%%PORT%%;
        location /v1.1/ {
            cdm_stop         huawei;
            cdm_stop_reason  X-Stop-Reason;
            cdm_stop_audit   %%TESTDIR%%/audit.jsonl;
            proxy_pass       http://127.0.0.1:%%PORT_cdm%%;
        }
    }

    server {
        listen 127.0.0.1:%%PORT_cdm%%;
        location / { return 200 "{}"; }
    }
}
EOC

$t->start;

# Characters that are not written as they are, or that are not of one byte;
# and those that are next to them.

my @any = ('"', '\\', "\x01", "\x1f", "\t", "\x7f", "\x80", "\xff", "\xe4\xbd",
           "\xc2\x85", "\xe2\x80\xa8", "\xe4\xbd\x9c", '!', '#', '[', ']', '~');
my @legal = ('"', '\\', "\xc2\xa0", "\xe4\xbd\x9c", "\xe2\x80\xa8",
             "\xe2\x81\xa6", "\xef\xbb\xbf", "\xf0\x9f\x98\x80", '~');

# Bytes that stand for themselves, all of them one after the other.

my @plain = grep { !/["\\]/ } map { chr } 0x21 .. 0x7e;
my $next = 0;

sub plain { return join '', map { $plain[$next++ % @plain] } 1 .. $_[0] }

# A text with that many bytes before and behind a character.

sub with { return plain($_[1]) . $_[0] . plain($_[2]) }

# What is between the quotes in the record.

sub encoded {
    my ($bytes, $max) = @_;

    my ($out, $n) = ('', 0);

    while ($n < length $bytes) {
        my $rest = substr $bytes, $n;

        # RFC 3629, section 4
        my $good = $rest =~ /\A(?:[\x00-\x7f]|[\xc2-\xdf][\x80-\xbf]
            |(?:\xe0[\xa0-\xbf]|\xed[\x80-\x9f]|[\xe1-\xec\xee\xef][\x80-\xbf])
             [\x80-\xbf]
            |(?:\xf0[\x90-\xbf]|\xf4[\x80-\x8f]|[\xf1-\xf3][\x80-\xbf])
             [\x80-\xbf]{2})/xs;

        my $char = $good ? $& : substr $rest, 0, 1;
        last if $n + length($char) > $max;
        $n += length $char;

        $out .= $good ? one($char) : "\xef\xbf\xbd";
    }

    return $out . (length($bytes) > $max ? "\xe2\x80\xa6" : '');
}

sub one {
    my ($char) = @_;

    return "\\$char" if $char eq '"' || $char eq '\\';

    utf8::decode(my $point = $char);
    my $code = ord $point;

    return sprintf '\\u%04x', $code
        if $code < 0x20 || ($code >= 0x7f && $code <= 0x9f)
        || ($code >= 0x2028 && $code <= 0x202e)
        || ($code >= 0x2066 && $code <= 0x2069)
        || grep { $_ == $code } 0x61c, 0x200e, 0x200f, 0xfeff;

    return $char;
}

my $client = $t->connect;
my $path = $t->path('audit.jsonl');
my $seen = 0;

# The next lines, of which the last one may come after its answer.

sub lines {
    my ($n) = @_;

    my @lines;

    $t->wait_for(sub {
        open my $fh, '<:raw', $path or die "$path: $!\n";
        seek $fh, $seen, 0;
        @lines = <$fh>;
        return @lines >= $n;
    }, what => "$n records");

    $seen += length for @lines;

    return @lines;
}

# Pairs of an X-Forwarded-For and a reason, each pair a stop. Both records of
# each have to tell them, and as no others do.

sub told {
    my ($name, @pairs) = @_;

    my ($n, @wrong) = (scalar @pairs);

    while (my @some = splice @pairs, 0, 200) {

        $client->send(join '', map {
            CdmStop::Http::build_request(
                method => 'PUT', target => $t->stop_target, keepalive => 1,
                headers => ['X-Forwarded-For' => $_->[0],
                            'X-Stop-Reason' => $_->[1]])
        } @some);
        my @answers = $client->responses(scalar @some);

        push @wrong, 'no 200' if grep { !$_ || $_->{status} != 200 } @answers;

        my @lines = lines(2 * @some);
        push @wrong, @lines . ' lines' if @lines > 2 * @some;

        for my $i (0 .. $#some) {
            my $want = sprintf ',"forwarded_for":"%s","reason":"%s","decision"',
                encoded($some[$i][0], 256), encoded($some[$i][1], 512);
            push @wrong, map { "wanted $want in $_" }
                         grep { index($_, $want) < 0 }
                         @lines[2 * $i, 2 * $i + 1];
        }
    }

    is(scalar @wrong, 0, "$name: $n stops") or diag(join "\n", @wrong[0 .. 2]);

    return;
}

subtest 'A01 plain texts of each length' => sub {
    told('whole', map { [plain($_), plain($_)] } 1 .. 255);
    told('as long as they may be, and longer',
         map { [plain($_), plain(2 * $_)] } 250 .. 256);
    told('cut', map { [plain($_), plain(512)] } 257 .. 280);
};

subtest 'A01 one character at each place of texts of each length' => sub {
    for my $i (0 .. $#any) {
        my $legal = $legal[$i % @legal];
        my @pairs;

        for my $len (0 .. 17) {
            push @pairs, map {
                [with($any[$i], $_, $len - $_), with($legal, $_, $len - $_)]
            } 0 .. $len;
        }

        told(sprintf('%s and %s', map { unpack 'H*', $_ } $any[$i], $legal),
             @pairs);
    }
};

subtest 'A01 several characters in longer texts' => sub {
    my $k = 0;
    my @pairs;

    for my $len (18 .. 70) {
        for my $at (0 .. $len) {
            my ($any, $legal) = ($any[$k % @any], $legal[$k % @legal]);
            my ($more, $beyond) = ($any[++$k % @any], $legal[$k % @legal]);

            push @pairs, [
                with($any, $at, $k % 11) . with($more, $k % 3, $len - $at),
                with($legal, $at, $k % 11) . with($beyond, $k % 3, $len - $at)
            ] if $at % 3 == $len % 3;
        }
    }

    told('two', @pairs);

    told('one after the other', map {
        my $n = $_;
        [join('', map { $any[($n + $_) % @any] } 0 .. $n) . 'x',
         join('', map { $legal[($n + $_) % @legal] } 0 .. $n)]
    } 1 .. 40);
};

subtest 'A01 a character at the bound' => sub {
    told('of X-Forwarded-For', map {
        my $any = $_;
        map { [with($any, $_, 20), with('"', 2 * $_ - 20, 10)] } 244 .. 257
    } @any);
};

$t->done;
