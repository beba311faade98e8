#!/usr/bin/perl

# The alert rules and the dashboard of docs/monitoring: Prometheus's own
# promtool reads and runs them, each alert is tested and explained, and the
# metrics that they name are those that the gateway has.

use strict;
use warnings;

use File::Temp ();
use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP ();
use Test::More;

use CdmStop::Process;

binmode Test::More->builder->$_, ':encoding(UTF-8)'
    for qw(output failure_output todo_output);

my $docs = "$FindBin::Bin/../docs";
my $rules = slurp("$docs/monitoring/cdm_stop.rules.yml");
my $tests = slurp("$docs/monitoring/cdm_stop.rules.test.yml");
my $explained = slurp("$docs/monitoring/ALERTS.md");
my $dashboard = JSON::PP->new->utf8->decode(
    slurp("$docs/monitoring/grafana-dashboard.json"));

my @alerts = $rules =~ /^ +- alert: (\w+)$/mg;
my @panels = @{ $dashboard->{panels} };
my @targets = map { @{ $_->{targets} // [] } } @panels;

promtool();
alerts();
dashboard();
names();

done_testing();


sub slurp {
    my ($file) = @_;

    open my $fh, '<:raw', $file or die "$file: $!\n";
    local $/;

    return scalar <$fh>;
}


sub promtool {
    my ($exit, $output) = CdmStop::Process::capture('promtool', 'check',
        'rules', "$docs/monitoring/cdm_stop.rules.yml");
    is($exit, 0, 'promtool reads the rules') or diag($output);

    ($exit, $output) = CdmStop::Process::capture('promtool', 'test', 'rules',
        "$docs/monitoring/cdm_stop.rules.test.yml", { timeout => 300 });
    is($exit, 0, 'the rules do as their tests say') or diag($output);

    return;
}


sub alerts {
    my %seen;

    cmp_ok(scalar @alerts, '>=', 20, 'there are alerts');
    is_deeply([grep { $seen{$_}++ } @alerts], [], 'each has its own name');
    is_deeply([sort $explained =~ /^### (\w+)$/mg], [sort @alerts],
        'each alert has its section in ALERTS.md, and each section an alert');

    for my $text (split /^(?= +- alert: )/m, $rules) {
        my ($alert) = $text =~ /\A +- alert: (\w+)$/m or next;
        my $anchor = lc $alert;
        my @said = $tests
            =~ /^ +alertname: \Q$alert\E\n +exp_alerts:( \[\])?$/mg;

        like($text, qr/^ +severity: (?:page|ticket|info)$/m,
            "$alert: a severity");
        like($text, qr/^ +runbook: ALERTS\.md#\Q$anchor\E$/m,
            "$alert: the place where it is explained");
        ok((grep { !defined } @said), "$alert: a test in which it fires");
        ok((grep { defined } @said), "$alert: a test in which it does not");
    }

    # what it refers to is there
    my %heading = map { lc s/[^\w -]//gr =~ s/ /-/gr => 1 }
        $explained =~ /^#+ (.+)$/mg;

    is_deeply([grep { !$heading{$_} } $explained =~ /\(#([\w-]+)\)/g], [],
        'references within ALERTS.md');
    is_deeply([grep { !-e "$docs/monitoring/$_" }
        $explained =~ /\]\(([^)#:]+)\)/g], [], 'and to other files');

    return;
}


sub dashboard {
    my (%id, @overlap, %taken);
    my %variable = map { $_->{name} => $_ } @{ $dashboard->{templating}{list} };

    is($variable{datasource}{type}, 'datasource',
        'dashboard: the data source is a variable');
    is($variable{datasource}{query}, 'prometheus', 'dashboard: of Prometheus');
    cmp_ok($dashboard->{schemaVersion}, '>=', 39, 'dashboard: of these days');
    is($dashboard->{id}, undef, 'dashboard: of no one installation');

    is_deeply([grep { ($_->{datasource}{uid} // '') ne '${datasource}' }
        @targets, (grep { $_->{type} ne 'row' } @panels),
        grep { $_->{type} eq 'query' } values %variable], [],
        'dashboard: everything asks that one');
    is_deeply([grep { $id{ $_->{id} }++ } @panels], [],
        'dashboard: each panel has its own id');
    is_deeply([map { $_->{title} } grep {
        $_->{type} ne 'row' && ($_->{description} // '') !~ /\w.*\.\z/ }
        @panels], [], 'dashboard: each says what it shows');

    for my $panel (@panels) {
        my %at = %{ $panel->{gridPos} };

        push @overlap, "$panel->{title} is too wide" if $at{x} + $at{w} > 24;

        for my $x ($at{x} .. $at{x} + $at{w} - 1) {
            for my $y ($at{y} .. $at{y} + $at{h} - 1) {
                push @overlap, "$panel->{title} is on $taken{$x, $y}"
                    if $taken{$x, $y};
                $taken{$x, $y} = $panel->{title};
            }
        }
    }

    is_deeply(\@overlap, [], 'dashboard: no panel is on another one');

    for my $panel (@panels) {
        my %ref;

        is_deeply([grep { $ref{ $_->{refId} }++ } @{ $panel->{targets} // [] }],
            [], "dashboard: queries of \"$panel->{title}\" are told apart");
    }

    my %unknown = map { $_ => 1 } grep { !$variable{$_} && $_ !~ /\A__/ }
        map { $_->{expr} =~ /\$(\w+)/g } @targets;
    is_deeply([sort keys %unknown], [], 'dashboard: variables are known');

    # each query, as Grafana would send it, is one for Prometheus

    my $file = File::Temp->new(SUFFIX => '.yml');
    my $i = 0;

    print {$file} "groups:\n  - name: dashboard\n    rules:\n";

    for my $target (@targets) {
        my $expr = $target->{expr} =~ s/\$__rate_interval/5m/gr
            =~ s/\$\w+/.*/gr;

        print {$file} "      - record: panel:query", $i++, "\n        expr: '",
            $expr =~ s/'/''/gr, "'\n";
    }

    close $file;

    my ($exit, $output) = CdmStop::Process::capture('promtool', 'check',
                                                    'rules', "$file");
    is($exit, 0, 'dashboard: promtool reads each query') or diag($output);
    cmp_ok($i, '>=', 30, 'dashboard: there are queries');

    return;
}


# what rules, their tests and the dashboard name is what MONITORING.md has

sub names {
    my %named;

    my @expressions = $rules =~ /expr: (.*?)\n +(?:for|labels):/sg;

    for my $text (@expressions, (map { $_->{expr} } @targets),
        (map { $_->{definition} // '' } @{ $dashboard->{templating}{list} }),
        $tests =~ /series: '(\w+)/g)
    {
        $named{$_} = 1 for $text =~ /\b(cdm_stop_\w+)/g;
    }

    cmp_ok(scalar keys %named, '>=', 30, 'metrics are named');

    my %metric = slurp("$docs/MONITORING.md")
        =~ /^\| `(cdm_stop_\w+)` \| (counter|gauge|histogram) \|/mg;

    for my $name (sort keys %named) {
        my $kind = $metric{$name}
            // $metric{ $name =~ s/_(?:bucket|sum|count)\z//r };

        ok($kind, "$name is in MONITORING.md");
    }

    # a part of a histogram, and a counter in increase() or rate() alone

    for my $text (@expressions, map { $_->{expr} } @targets) {
        while ($text =~ /(\w+\()?\s*\b(cdm_stop_\w+)/g) {
            my ($function, $name) = ($1 // '', $2);
            my $kind = $metric{$name} // 'histogram';

            next if $kind eq 'gauge';
            like($function, qr/\A(?:increase|rate)\(\z/,
                "$name is used as a $kind");
        }
    }

    return;
}
