package CdmStop::Cert;

=head1 NAME

CdmStop::Cert - certificates for tests, made when they are needed

=head1 SYNOPSIS

    my $certs = CdmStop::Cert->new(dir => $dir);
    my $c = $certs->get('good');     # { cert => FILE, key => FILE, ca => FILE }
    my $a = $certs->client('airflow', '/O=acme/CN=airflow');

Kinds: good (localhost, iam.test, cdm.test, 127.0.0.1), wrong_name, unknown_ca,
expired. C<names> of C<new> stand in place of those of a good one. C<ca> is
always the certificate that clients are told to trust: that of unknown_ca is
signed by another. The certificate of a client is signed by C<ca> too, or by
what is named as the third argument.

=cut

use strict;
use warnings;

use CdmStop::Process;

my $GOOD = 'DNS:localhost,DNS:iam.test,DNS:cdm.test,IP:127.0.0.1';

my %KIND = (
    good => { signer => 'ca', names => $GOOD },
    wrong_name => { signer => 'ca', names => 'DNS:other.test' },
    unknown_ca => { signer => 'other-ca', names => $GOOD },
    expired => { signer => 'ca', names => $GOOD, expired => 1 },
);

sub new {
    my ($class, %opt) = @_;

    mkdir $opt{dir};
    return bless {%opt}, $class;
}

sub get {
    my ($self, $kind) = @_;

    my $of = $KIND{$kind} // die "no kind of certificate: $kind\n";

    $self->make_authority($_) for 'ca', $of->{signer};
    $self->make_certificate($kind, $of) unless -e "$self->{dir}/$kind.crt";

    return {
        cert => "$self->{dir}/$kind.crt", key => "$self->{dir}/$kind.key",
        ca => "$self->{dir}/ca.crt"
    };
}

sub make_authority {
    my ($self, $name) = @_;

    my $base = "$self->{dir}/$name";
    return if -e "$base.crt";

    openssl(qw(req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes),
            qw(-days 30 -subj), "/CN=$name", '-keyout', "$base.key",
            '-out', "$base.crt",
            '-addext', 'basicConstraints=critical,CA:TRUE');

    return;
}

# The certificate of a client: its name, for the files, and its subject.

sub client {
    my ($self, $name, $subject, $signer) = @_;

    my $base = "$self->{dir}/client-$name";
    my $ca = "$self->{dir}/" . ($signer // 'ca');

    $self->make_authority($signer // 'ca');

    openssl(qw(req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes),
            '-subj', $subject, '-keyout', "$base.key", '-out', "$base.csr");
    openssl(qw(x509 -req -days 20 -CAcreateserial), '-in', "$base.csr",
            '-CA', "$ca.crt", '-CAkey', "$ca.key", '-out', "$base.crt");

    return {
        cert => "$base.crt", key => "$base.key", ca => "$self->{dir}/ca.crt"
    };
}

# An expired one needs dates of its own, which only "openssl ca" takes.

sub make_certificate {
    my ($self, $kind, $of) = @_;

    my $dir = $self->{dir};
    my $base = "$dir/$kind";
    my $names = $kind eq 'good' ? $self->{names} // $GOOD : $of->{names};

    openssl(qw(req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes),
            '-subj', "/CN=$kind", '-keyout', "$base.key", '-out', "$base.csr");

    write_file("$base.index", '');
    write_file("$base.cnf", <<"EOC");
[ca]
default_ca = own
[own]
database = $base.index
new_certs_dir = $dir
rand_serial = yes
default_md = sha256
policy = any
x509_extensions = server
[any]
commonName = supplied
[server]
subjectAltName = $names
extendedKeyUsage = serverAuth
EOC

    my @dates = $of->{expired} ? (qw(-startdate 20200101000000Z),
                                  qw(-enddate 20210101000000Z))
                               : (qw(-days 20));

    openssl('ca', '-batch', '-notext', '-config', "$base.cnf", @dates,
            '-cert', "$dir/$of->{signer}.crt",
            '-keyfile', "$dir/$of->{signer}.key",
            '-in', "$base.csr", '-out', "$base.crt");

    return;
}

sub openssl {
    my (@arguments) = @_;

    my ($exit, $output) = CdmStop::Process::capture('openssl', @arguments);
    die "openssl $arguments[0]: $output" if $exit;

    return;
}

sub write_file {
    my ($file, $content) = @_;

    open my $fh, '>', $file or die "$file: $!\n";
    print {$fh} $content;
    close $fh or die "$file: $!\n";

    return;
}

1;
