#!/usr/bin/perl

# The documents in Simplified Chinese say what the English ones say: part by
# part the same code, directives, variables, messages, codes, figures and links,
# in the words of Huawei's own documents.

use strict;
use warnings;
use utf8;

use Encode ();
use FindBin;
use Test::More;
use lib "$FindBin::Bin/lib";

use CdmStop::Markdown;

my $root = "$FindBin::Bin/..";

# English => Chinese, and what names the one in the other
my %document = (
    'README.md' => 'README.zh-CN.md',
    map { ("docs/$_.md" => "docs/zh-CN/$_.md") }
        qw(QUICKSTART DIRECTIVES TROUBLESHOOTING)
);
my %english = reverse %document;

# what stands in a block of syntax for words
my %word = (
    'none' => '无',
    'none, it must be set' => '无，必须设置',
    'none, the chain has no key' => '无，哈希链不带密钥',
    'none, there are no checkpoints' => '无，没有检查点',
    'user@domain of the verified token' => '通过校验的Token的user@domain',
);
my %label = ('Syntax' => '语法', 'Default' => '默认值', 'Context' => '上下文');

# Huawei Cloud says Token, 账号, 作业, 消息头, 终端节点, 凭证
my @wrong = qw(令牌 帐号 帐户 任务 报头 标头 端点 凭据 续期);

my $chinese = qr/\p{Han}/;

binmode Test::More->builder->$_, ':encoding(UTF-8)'
    for qw(output failure_output todo_output);

for my $file (sort keys %document) {
    my $other = $document{$file};
    my ($en, $zh) = map { text_of($_) } $file, $other;
    my @en = CdmStop::Markdown::parts($en);
    my @zh = CdmStop::Markdown::parts($zh);

    names_the_other($file, \@en, \@zh);
    report("$other: its parts", structure(\@en, \@zh)) or next;

    report("$other: code", code($file, \@en, \@zh));
    report("$other: code in the text", spans($file, \@en, \@zh));
    report("$other: figures", figures($file, \@en, \@zh));
    report("$other: headers", headers($file, \@en, \@zh));
    report("$other: links", links_alike($file, \@en, \@zh));
    report("$other: each link leads somewhere", broken_links($other, \@zh));
    report("$other: punctuation", punctuation(\@zh));
    report("$other: words", words(\@zh));
}

report('src/page/words.js: words', page_words());

is_deeply([sort map { s{\A\Q$root\E/}{}r } glob("$root/docs/zh-CN/*")],
    [sort grep { m{/} } values %document], 'no other document in zh-CN');

done_testing();


# one test for each question, with a line for each complaint

sub report {
    my ($name, @complaints) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return ok(!@complaints, $name) || diag(map { "  $_\n" } @complaints) && 0;
}


sub text_of {
    my ($file) = @_;

    open my $fh, '<:raw', "$root/$file" or die "$file: $!\n";
    local $/;
    my $bytes = <$fh>;
    my $text = eval { Encode::decode('UTF-8', my $copy = $bytes,
                                     Encode::FB_CROAK) };

    ok(defined $text, "$file: UTF-8");
    $text //= '';
    unlike($text, qr/\x{feff}|\r/, "$file: no mark at its start, no returns");

    return $text;
}


# The line below the title leads to the other language.

sub names_the_other {
    my ($file, $en, $zh) = @_;

    my ($to, $back) = $file =~ m{\Adocs/(.*)} ? ("zh-CN/$1", "../$1")
        : ($document{$file}, $file);

    is($en->[1]{text}, "English | [简体中文]($to)",
        "$file: leads to the Chinese one");
    is($zh->[1]{text}, "[English]($back) | 简体中文",
        "$document{$file}: leads to the English one");
}


# The same kinds of parts one behind the other; names stay names.

sub structure {
    my ($en, $zh) = @_;

    for my $i (0 .. ($#$en > $#$zh ? $#$en : $#$zh)) {
        my ($e, $z) = map { $_->[$i] // { kind => 'nothing', line => 'end',
                                          text => '' } } $en, $zh;

        for my $part ($e, $z) {
            $part->{is} = $part->{kind} . ($part->{level} // '')
                . ($part->{kind} eq 'row'
                    ? scalar(() = $part->{text} =~ /(?<!\\)\|/g) : '');
        }

        return where($e, $z) . ": $e->{is} is $z->{is}" if $e->{is} ne $z->{is};
        return where($e, $z) . ": another heading"
            if $e->{kind} eq 'heading' && $e->{text} =~ /_|\Anginx/
                && $e->{text} ne $z->{text};
    }

    return;
}


sub where {
    my ($e, $z) = @_;

    return "line $z->{line} (English: $e->{line})";
}


# Compares what a function finds in each part, in any order.

sub compare {
    my ($en, $zh, $what) = @_;

    return map {
        my ($e, $z) = ($en->[$_], $zh->[$_]);
        my ($in_e, $in_z) = map { join "\n", sort $what->($_) } $e, $z;

        $in_e eq $in_z ? () : where($e, $z) . ': '
            . ($in_z =~ s/\n/ ~ /gr) . ' instead of ' . ($in_e =~ s/\n/ ~ /gr)
    } grep { $_ != 1 && $en->[$_]{kind} ne 'code' } 0 .. $#$en;
}


sub code {
    my ($file, $en, $zh) = @_;

    my @bad;

    for my $i (grep { $en->[$_]{kind} eq 'code' } 0 .. $#$en) {
        my ($e, $z) = map { $_->[$i]{text} } $en, $zh;

        $e = in_chinese($e) if $e =~ /\A +Syntax:/;
        push @bad, where($en->[$i], $zh->[$i]) . ': another text' if $e ne $z;
    }

    return @bad;
}


# Syntax, default and context as the Chinese document has to have them.

sub in_chinese {
    my ($block) = @_;

    return join "\n", map {
        my ($label, $value) = /\A    (\w+): +(.*)\z/ ? ($1, $2) : ('', $_);

        $value = $word{$value} // $value;
        '    ' . ($label{$label} // "no word for $label") . ':'
            . '  ' x (4 - length($label{$label} // '')) . $value
    } split /\n/, $block;
}


sub spans {
    my ($file, $en, $zh) = @_;

    return compare($en, $zh, sub { CdmStop::Markdown::spans($_[0]{text}) });
}


sub figures {
    my ($file, $en, $zh) = @_;

    return compare($en, $zh, sub {
        CdmStop::Markdown::plain($_[0]{text})
            =~ /(?<![A-Za-z])\d[\d,.]*(?<=\d)/g
    });
}


sub headers {
    my ($file, $en, $zh) = @_;

    return compare($en, $zh, sub {
        my %seen = map { $_ => 1 } CdmStop::Markdown::plain($_[0]{text})
            =~ /(?<![A-Za-z-])(?:X|Retry|Content|Accept|User)(?:-[A-Za-z]+)+/g;
        return keys %seen;
    });
}


# A link leads to the Chinese document where there is one.

sub links_alike {
    my ($file, $en, $zh) = @_;

    return compare($en, $zh, sub {
        my ($part) = @_;

        my $from = (grep { $_ == $part } @$zh) ? $document{$file} : $file;

        return map {
            my ($target, $anchor) = target($from, $_);

            $target = $document{$target} // $target if $from eq $file;
            $anchor = position($target, $anchor, $from eq $file)
                if $anchor ne '' && $english{$target};
            "$target#$anchor";
        } CdmStop::Markdown::links($part->{text});
    });
}


# The file that a link leads to, from the top of the tree, and its anchor.

sub target {
    my ($from, $link) = @_;

    return ($link, '') if $link =~ /\A\w+:/;

    my ($path, $anchor) = $link =~ /\A([^#]*)(?:#(.*))?\z/;
    return ($from, $anchor // '') if $path eq '';

    my @way = split m{/}, $from;
    pop @way;

    for my $step (split m{/}, $path) {
        $step eq '..' ? pop @way : push @way, $step;
    }

    return (join('/', @way), $anchor // '');
}


# The number of a heading in its document, which is the same in both.

sub position {
    my ($file, $anchor, $is_english) = @_;

    my @ids = anchors_of($is_english ? $english{$file} : $file);
    my ($n) = grep { $ids[$_] eq $anchor } 0 .. $#ids;

    return $n // "no $anchor";
}


my %anchors;

sub anchors_of {
    my ($file) = @_;

    return @{$anchors{$file} //= do {
        open my $fh, '<:encoding(UTF-8)', "$root/$file" or die "$file: $!\n";
        local $/;
        [CdmStop::Markdown::anchors(CdmStop::Markdown::parts(scalar <$fh>))];
    }};
}


sub broken_links {
    my ($file, $parts) = @_;

    return map {
        my $part = $_;

        map {
            my ($to, $anchor) = target($file, $_);

            $to =~ /\A\w+:/ ? ()
                : !-e "$root/$to" ? "line $part->{line}: there is no $to"
                : $anchor ne '' && !(grep { $_ eq $anchor } anchors_of($to))
                    ? "line $part->{line}: $to has no #$anchor" : ()
        } CdmStop::Markdown::links($part->{text})
    } grep { $_->{kind} ne 'code' } @$parts;
}


# Full width beside a Chinese character, and never in code.

sub punctuation {
    my ($parts) = @_;

    return map {
        my $line = "line $_->{line}";
        my $plain = CdmStop::Markdown::plain($_->{text})
            =~ s/\w\(\d\)//gr;

        $_->{kind} eq 'code'
            ? ($_->{text} =~ /\A    语法:/ || $_->{text} !~ /[，。：；（）、]/
                ? () : "$line: of full width in code")
            : ((grep { /[，。：；（）、]|$chinese/ }
                    CdmStop::Markdown::spans($_->{text}))
                    ? "$line: Chinese in code" : (),
               $plain =~ /($chinese[,:;()?!]|[,:;()?!]$chinese)/
                    ? "$line: of half width: $1" : (),
               $plain =~ /($chinese [^`|\[\/]|[^`|\]\d\/,.] $chinese)/
                    ? "$line: a blank beside Chinese: $1" : (),
               $_->{lines} > 1 ? "$line: a line break is a blank" : ())
    } @$parts;
}


sub words {
    my ($parts) = @_;

    my $wrong = join '|', @wrong;

    return map {
        $_->{text} =~ /($wrong)/ ? "line $_->{line}: $1" : ()
    } @$parts;
}


# The page says the same, with no blank between what is put in and a unit.

sub page_words {
    my $wrong = join '|', @wrong;
    my $line = 0;

    return map {
        $line++;
        /($wrong|限流|何人|缘由|\{p\d+\} \p{Han})/ ? "line $line: $1" : ()
    } split /\n/, text_of('src/page/words.js');
}
