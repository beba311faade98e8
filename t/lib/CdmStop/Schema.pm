package CdmStop::Schema;

=head1 NAME

CdmStop::Schema - checks decoded JSON against a JSON Schema

=head1 SYNOPSIS

    my $schema = CdmStop::Schema->load("$root/docs/audit-record.schema.json");

    my @complaints = $schema->check($record);       # empty: it is valid
    # "/status: 1000 is more than 999"

Knows the keywords of draft 2020-12 that the project's schemas use: type,
const, enum, pattern, minLength, maxLength, minimum, maximum, required,
properties, additionalProperties (false), items, maxItems, oneOf, $ref within
the document. Another keyword is an error, not ignored: a schema that is not
understood would check less than it says.

Records are to be fresh from JSON::PP: whether a scalar is a text or a number
is told by how it was decoded.

=cut

use strict;
use warnings;

use B ();
use JSON::PP ();

# says nothing about what is valid
my %SILENT = map { $_ => 1 } qw($schema $id $comment $defs title description);

my %KEYWORD = (
    type => \&compile_type, const => \&compile_const, enum => \&compile_enum,
    pattern => \&compile_pattern, required => \&compile_required,
    properties => \&compile_properties, items => \&compile_items,
    oneOf => \&compile_one_of, '$ref' => \&compile_ref,
    additionalProperties => \&compile_additional,
    minLength => bound('text', sub { length $_[0] < $_[1] }, 'is shorter than'),
    maxLength => bound('text', sub { length $_[0] > $_[1] }, 'is longer than'),
    minimum => bound('number', sub { $_[0] < $_[1] }, 'is less than'),
    maximum => bound('number', sub { $_[0] > $_[1] }, 'is more than'),
    maxItems => bound('array', sub { @{$_[0]} > $_[1] }, 'has more items than'),
);

sub load {
    my ($class, $file) = @_;

    open my $in, '<:raw', $file or die "$file: $!\n";
    my $json = JSON::PP->new->utf8->decode(do { local $/; <$in> });
    close $in;

    return $class->new($json);
}

sub new {
    my ($class, $json) = @_;

    my $self = bless { json => $json, compiled => {} }, $class;
    $self->{check} = $self->compile($json);

    return $self;
}

sub check {
    my ($self, $value) = @_;

    return $self->{check}->($value, '');
}

# The names of all members of a definition.

sub members {
    my ($self, $name) = @_;

    return sort keys %{$self->{json}{'$defs'}{$name}{properties}};
}

# A schema as a function of a value and its place that returns complaints.

sub compile {
    my ($self, $schema) = @_;

    die "a schema that is no object\n" if ref $schema ne 'HASH';

    my @checks;

    for my $keyword (sort keys %$schema) {
        next if $SILENT{$keyword};
        my $make = $KEYWORD{$keyword} or die "keyword \"$keyword\"\n";
        push @checks, $make->($self, $schema->{$keyword}, $schema);
    }

    return $checks[0] if @checks == 1;
    return sub { my @arg = @_; return map { $_->(@arg) } @checks };
}

# What a decoded value is in JSON.

sub kind {
    my ($value) = @_;

    return 'null' if !defined $value;
    return 'boolean' if JSON::PP::is_bool($value);
    return { HASH => 'object', ARRAY => 'array' }->{ref $value} // 'unknown'
        if ref $value;

    my $flags = B::svref_2object(\$value)->FLAGS;
    return 'text' if $flags & B::SVf_POK;
    return 'number';
}

my %IS = (
    string => sub { $_[0] eq 'text' }, object => sub { $_[0] eq 'object' },
    array => sub { $_[0] eq 'array' }, boolean => sub { $_[0] eq 'boolean' },
    null => sub { $_[0] eq 'null' }, number => sub { $_[0] eq 'number' },
    integer => sub { $_[0] eq 'number' && $_[1] == int $_[1] },
);

sub compile_type {
    my ($self, $type) = @_;

    my $is = $IS{$type} or die "type \"$type\"\n";

    return sub {
        my ($value, $at) = @_;
        my $kind = kind($value);
        return $is->($kind, $value) ? () : "$at: a $kind is no $type";
    };
}

# A text that tells values apart, 1 from "1" as well.

sub canonical {
    my ($value) = @_;

    return JSON::PP->new->canonical->allow_nonref->encode($value);
}

sub compile_const {
    my ($self, $const) = @_;

    return compile_enum($self, [$const]);
}

sub compile_enum {
    my ($self, $values) = @_;

    my %allowed = map { canonical($_) => 1 } @$values;
    my $list = join ', ', sort keys %allowed;

    return sub {
        my ($value, $at) = @_;
        my $is = canonical($value);
        return $allowed{$is} ? () : "$at: $is is none of $list";
    };
}

sub compile_pattern {
    my ($self, $pattern) = @_;

    # in JSON Schema, "$" is the very end
    (my $perl = $pattern) =~ s/(?<!\\)\$\z/\\z/;
    my $re = qr/$perl/a;

    return sub {
        my ($value, $at) = @_;
        return () if kind($value) ne 'text' || $value =~ $re;
        return "$at: \"$value\" does not match $pattern";
    };
}

sub bound {
    my ($for, $beyond, $words) = @_;

    return sub {
        my ($self, $limit) = @_;

        return sub {
            my ($value, $at) = @_;
            return () if kind($value) ne $for || !$beyond->($value, $limit);
            return "$at: " . substr(canonical($value), 0, 60)
                . " $words $limit";
        };
    };
}

sub compile_required {
    my ($self, $names) = @_;

    return sub {
        my ($value, $at) = @_;
        return () if ref $value ne 'HASH';
        return map { "$at/$_: is missing" }
               grep { !exists $value->{$_} } @$names;
    };
}

sub compile_properties {
    my ($self, $properties) = @_;

    my %check = map { $_ => $self->compile($properties->{$_}) }
                keys %$properties;

    return sub {
        my ($value, $at) = @_;
        return () if ref $value ne 'HASH';
        return map { $check{$_}->($value->{$_}, "$at/$_") }
               grep { $check{$_} } sort keys %$value;
    };
}

sub compile_additional {
    my ($self, $allowed, $schema) = @_;

    die "additionalProperties other than false\n" if $allowed;
    my $known = $schema->{properties} // {};

    return sub {
        my ($value, $at) = @_;
        return () if ref $value ne 'HASH';
        return map { "$at/$_: is not known" }
               grep { !$known->{$_} } sort keys %$value;
    };
}

sub compile_items {
    my ($self, $schema) = @_;

    my $check = $self->compile($schema);

    return sub {
        my ($value, $at) = @_;
        return () if ref $value ne 'ARRAY';
        return map { $check->($value->[$_], "$at/$_") } 0 .. $#$value;
    };
}

# Of several that fail, the one with the fewest complaints is meant.

sub compile_one_of {
    my ($self, $schemas) = @_;

    my @checks = map { $self->compile($_) } @$schemas;

    return sub {
        my ($value, $at) = @_;
        my (@best, $valid);

        for my $check (@checks) {
            my @complaints = $check->($value, $at);
            $valid++ if !@complaints;
            @best = @complaints if !@best || @complaints < @best;
        }

        return () if ($valid // 0) == 1;
        return $valid ? "$at: fits $valid of oneOf" : @best;
    };
}

sub compile_ref {
    my ($self, $ref) = @_;

    my ($path) = $ref =~ m{\A#/(.+)\z} or die "\$ref \"$ref\"\n";

    # by name, so that one that refers to itself ends
    $self->{compiled}{$ref} //= do {
        my $schema = $self->{json};

        for my $step (split m{/}, $path) {
            $schema = $schema->{$step} // die "\$ref \"$ref\"\n";
        }

        $self->compile($schema);
    };

    return $self->{compiled}{$ref};
}

1;
