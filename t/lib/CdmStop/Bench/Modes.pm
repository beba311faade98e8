package CdmStop::Bench::Modes;

=head1 NAME

CdmStop::Bench::Modes - what the benchmark compares

=head1 SYNOPSIS

    my @names = CdmStop::Bench::Modes::names();
    my $mode = CdmStop::Bench::Modes::get('lua');

A mode has

    name, title         for options and for tables
    side                ours, peer or direct
    peer                the mode that ours is held against, does as much
    gateway             nginx, lua, haproxy, or none: clients ask CDM itself
    module              our module is loaded
    log                 none, access, records, own
    caller              clients send a token of their own
    does                in words, for the tables

Their configurations are in L<CdmStop::Bench::Nginx> and
L<CdmStop::Bench::Haproxy>.

=cut

use strict;
use warnings;

my @MODES = (
    { name => 'direct', title => 'no gateway', side => 'direct',
      gateway => 'none', log => 'none',
      does => 'the clients send the token to CDM themselves: what '
          . 'the clients and CDM take' },

    { name => 'plain', title => 'nginx, no log', side => 'peer',
      gateway => 'nginx', log => 'none',
      does => '`proxy_pass`, the token a constant in '
          . '`proxy_set_header`; no log. This is the limit: '
          . 'nobody does less' },
    { name => 'plain_log', title => 'nginx, access log', side => 'peer',
      gateway => 'nginx', log => 'access',
      does => 'the same with a JSON `access_log` of 13 variables, '
          . '`$request_id` among them' },
    { name => 'plain_token', title => 'nginx, log, caller token',
      side => 'peer', gateway => 'nginx', log => 'access', caller => 1,
      does => 'the same for clients that send a token of 2,000 '
          . 'bytes' },

    { name => 'auth_request', title => 'nginx auth_request', side => 'peer',
      gateway => 'nginx', log => 'access',
      does => '`auth_request` to a location that asks IAM for a '
          . 'token, its answer from `proxy_cache`, whose file '
          . '`open_file_cache` keeps open; `auth_request_set` '
          . 'takes the token from the header of the answer; the '
          . 'same `access_log`' },
    { name => 'lua', title => 'OpenResty Lua', side => 'peer',
      gateway => 'lua', log => 'own',
      does => 'Debian\'s `libnginx-mod-http-lua`: `access_by_lua` '
          . 'takes the token from a `lua_shared_dict`, or asks '
          . 'IAM; `log_by_lua` writes the same 13 values with '
          . '`cjson` into a file, one `write(2)` each' },
    { name => 'haproxy', title => 'HAProxy', side => 'peer',
      gateway => 'haproxy', log => 'own',
      does => '`http-request set-header` with a constant; one '
          . 'thread; a JSON line of 13 values, one `writev(2)` '
          . 'each into a file that is its standard output '
          . '(HAProxy opens no log files itself)' },

    { name => 'inject', title => 'ours, injecting', side => 'ours',
      peer => 'plain', gateway => 'nginx', module => 1, log => 'none',
      does => '`cdm_stop` with all its checks, `cdm_stop_audit off`' },
    { name => 'records', title => 'ours, records', side => 'ours',
      peer => 'plain_log', gateway => 'nginx', module => 1, log => 'records',
      does => 'the same with intent and outcome in a file, chained' },
    { name => 'keyed', title => 'ours, keyed records', side => 'ours',
      peer => 'plain_log', gateway => 'nginx', module => 1, log => 'records',
      does => 'the same with `cdm_stop_audit_key`' },
    { name => 'all', title => 'ours, everything', side => 'ours',
      peer => 'plain_token', gateway => 'nginx', module => 1,
      log => 'records', caller => 1,
      does => 'the same with a keyed chain, the caller\'s token of '
          . '2,000 bytes verified, and a policy of 1,000 rules of '
          . 'which the last one decides, and with metrics' },
);

my %MODE = map { $_->{name} => $_ } @MODES;

sub names { return map { $_->{name} } @MODES }

sub get {
    my ($name) = @_;

    return $MODE{$name} // die "no mode named $name\n";
}

# Those of a list "a,b"; all of them without one.

sub chosen {
    my ($list) = @_;

    my %want = map { get($_); $_ => 1 } split /,/, $list // '';

    return grep { !$list || $want{$_} } names();
}

1;
