package trust

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	slsa "github.com/in-toto/attestation/go/predicates/provenance/v1"
	intoto "github.com/in-toto/attestation/go/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"every.channel/runner-images/internal/artifact"
	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/redact"
)

// ProvenanceFileName is the name of the asset.
const ProvenanceFileName = "provenance.intoto.jsonl"

const (
	// predicateType is that of SLSA provenance, version 1.
	predicateType = "https://slsa.dev/provenance/v1"
	// buildType names the meaning of the parameters below, which docs/VERIFY.md describes.
	buildType = "https://every.channel/runner-images/build/v1"
	// builderByHand is the builder of files that a person made at a terminal.
	builderByHand = "https://every.channel/runner-images/by-hand"
)

// A Build is what one run built and from what. Everything but Run is the same
// for every run that builds the same thing.
type Build struct {
	Tag        string        // of the release that the files are for
	Subjects   checksum.Sums // the files that this run made
	Repository string        // its address, "https://forge.example/owner/name"; may be empty
	Commit     string        // a git hash; may be empty
	Ref        string        // "refs/tags/boot-v2026.02.28"; may be empty
	Workflow   string        // the workflow's name or file; empty at a terminal
	Inputs     map[string]string
	ModTime    time.Time // of the files in bundles, in whole seconds; zero if it is not known
	Flake      Flake
	Images     []Image
	Builder    string            // the address of the system that runs workflows; empty at a terminal
	Versions   map[string]string // of the programs that built: "nix", "runner-images"
	Run        Run
}

// A Flake is the source that was built, as `nix flake metadata` prints it.
type Flake struct {
	URL      string // locked: "git+https://forge.example/owner/name?rev=…"
	Revision string // empty for a folder without git, or with changes
	NARHash  string // "sha256-…", of the source tree
	Inputs   []Input
}

// An Input is a node of the flake's lock file.
type Input struct {
	Name     string // "nixpkgs"
	URL      string // "github:NixOS/nixpkgs/…"
	Revision string
	NARHash  string
}

// An Image is one thing that was built.
type Image struct {
	Name        string // "ec-runner-x86_64-netboot"
	Installable string
	Asset       string // the file that was made of it
	Derivation  string // store path
	Output      string // store path
	NARHash     string // of the output: "sha256-…"
}

// A Run is what differs from one run to the next.
type Run struct {
	URL      string // of the workflow run, empty at a terminal
	Started  time.Time
	Finished time.Time
}

// Statement returns the in-toto statement of the build as JSON on one line. The
// same build gives the same bytes. Passwords in addresses, and inputs that hold
// access tokens, are left out.
func (b Build) Statement() ([]byte, error) {
	parameters, err := structpb.NewStruct(b.parameters())
	if err != nil {
		return nil, fmt.Errorf("provenance: parameters: %w", err)
	}
	predicate := &slsa.Provenance{
		BuildDefinition: &slsa.BuildDefinition{
			BuildType:            buildType,
			ExternalParameters:   parameters,
			ResolvedDependencies: b.dependencies(),
		},
		RunDetails: &slsa.RunDetails{
			Builder:    &slsa.Builder{Id: b.builder(), Version: b.Versions},
			Metadata:   b.Run.metadata(),
			Byproducts: byproducts(b.Images),
		},
	}
	if err := predicate.Validate(); err != nil {
		return nil, fmt.Errorf("provenance: %w", err)
	}
	return marshalStatement(b.Subjects, predicate)
}

func (b Build) parameters() map[string]any {
	parameters := map[string]any{
		"release_tag": b.Tag,
		"repository":  redact.Recorded(b.Repository),
		"ref":         b.Ref,
		"workflow":    b.Workflow,
		"inputs":      redactAll(b.Inputs),
		"images":      installables(b.Images),
	}
	if !b.ModTime.IsZero() {
		parameters["source_date_epoch"] = strconv.FormatInt(b.ModTime.Unix(), 10)
	}
	return parameters
}

func marshalStatement(subjects checksum.Sums, predicate *slsa.Provenance) ([]byte, error) {
	fields, err := toStruct(predicate)
	if err != nil {
		return nil, fmt.Errorf("provenance: predicate: %w", err)
	}
	statement := &intoto.Statement{
		Type:          intoto.StatementTypeUri,
		PredicateType: predicateType,
		Predicate:     fields,
	}
	for _, name := range slices.Sorted(maps.Keys(subjects)) {
		statement.Subject = append(statement.Subject, &intoto.ResourceDescriptor{
			Name:   name,
			Digest: map[string]string{"sha256": subjects[name]},
		})
	}
	if err := statement.Validate(); err != nil {
		return nil, fmt.Errorf("provenance: %w", err)
	}
	return marshal(statement)
}

// marshal returns a message as JSON without the white space that protojson varies
// on purpose from build to build.
func marshal(message proto.Message) ([]byte, error) {
	text, err := protojson.Marshal(message)
	if err != nil {
		return nil, err
	}
	var line bytes.Buffer
	err = json.Compact(&line, text)
	return line.Bytes(), err
}

func toStruct(message proto.Message) (*structpb.Struct, error) {
	text, err := protojson.Marshal(message)
	if err != nil {
		return nil, err
	}
	fields := &structpb.Struct{}
	return fields, protojson.Unmarshal(text, fields)
}

func (b Build) builder() string {
	if b.Builder == "" {
		return builderByHand
	}
	return redact.Recorded(b.Builder)
}

func (r Run) metadata() *slsa.BuildMetadata {
	m := &slsa.BuildMetadata{InvocationId: redact.Recorded(r.URL)}
	if !r.Started.IsZero() {
		m.StartedOn = timestamppb.New(r.Started.Truncate(time.Second))
	}
	if !r.Finished.IsZero() {
		m.FinishedOn = timestamppb.New(r.Finished.Truncate(time.Second))
	}
	return m
}

func installables(images []Image) []any {
	list := make([]any, 0, len(images))
	for _, image := range images {
		list = append(list, map[string]any{"name": image.Name, "installable": redact.Recorded(image.Installable)})
	}
	return list
}

// Names of resolved dependencies; those of the lock file have a prefix so that
// an input called "flake" is not taken for the flake itself.
const (
	sourceName  = "source"
	flakeName   = "flake"
	inputPrefix = "flake.lock/"
)

func (b Build) dependencies() []*intoto.ResourceDescriptor {
	var list []*intoto.ResourceDescriptor
	if b.Commit != "" {
		uri := ""
		if b.Repository != "" {
			uri = "git+" + redact.Recorded(b.Repository)
			if b.Ref != "" {
				uri += "@" + b.Ref
			}
		}
		list = append(list, &intoto.ResourceDescriptor{Name: sourceName, Uri: uri, Digest: digests(b.Commit, "")})
	}
	if b.Flake.URL != "" {
		list = append(list, &intoto.ResourceDescriptor{
			Name: flakeName, Uri: redact.Recorded(b.Flake.URL), Digest: digests(b.Flake.Revision, b.Flake.NARHash),
		})
	}
	for _, input := range b.Flake.Inputs {
		list = append(list, &intoto.ResourceDescriptor{
			Name: inputPrefix + input.Name, Uri: redact.Recorded(input.URL), Digest: digests(input.Revision, input.NARHash),
		})
	}
	return list
}

// narHashKey is a digest of our own: Nix's hash of a tree as Nix writes it
// ("sha256-…"), so that it can be compared with a flake.lock by eye.
const narHashKey = "narHash"

func digests(revision, narHash string) map[string]string {
	set := map[string]string{}
	switch len(revision) {
	case 0:
	case 40:
		set["gitCommit"] = revision
	default:
		// A repository in git's SHA-256 format, or another version control.
		set["revision"] = revision
	}
	if narHash != "" {
		set[narHashKey] = narHash
	}
	return set
}

func byproducts(images []Image) []*intoto.ResourceDescriptor {
	var list []*intoto.ResourceDescriptor
	for _, image := range images {
		// NewStruct fails only for values that are not JSON; these are strings.
		annotations, _ := structpb.NewStruct(map[string]any{
			"asset":      image.Asset,
			"derivation": image.Derivation,
			"output":     image.Output,
		})
		list = append(list, &intoto.ResourceDescriptor{
			Name: image.Name, Digest: digests("", image.NARHash), Annotations: annotations,
		})
	}
	return list
}

// redactAll returns inputs as they may be recorded. Of one that is not known here
// nobody can tell whether it is a secret.
func redactAll(inputs map[string]string) map[string]any {
	redacted := make(map[string]any, len(inputs))
	for name, value := range inputs {
		switch name {
		case "nix_args":
			value = redact.RecordedArguments(value)
		case "release_tag", "publish_release", "build_x86_64_netboot", "build_x86_64_iso", "build_aarch64_netboot", "build_aarch64_sdimage",
			"images", "flake", "ca_file", "output_dir", "mirror_hosts", "prerelease", "forge_url", "repository", "verify_uploads", "nix_copy_to":
			value = redact.RecordedWords(value)
		default:
			value = redact.RecordedArguments(value)
		}
		redacted[name] = value
	}
	return redacted
}

// parse reads a statement that Statement made.
func parse(payload []byte) (Build, error) {
	statement, predicate := &intoto.Statement{}, &slsa.Provenance{}
	// A later version may have more fields.
	reader := protojson.UnmarshalOptions{DiscardUnknown: true}
	if err := reader.Unmarshal(payload, statement); err != nil {
		return Build{}, fmt.Errorf("not an in-toto statement: %w", err)
	}
	if err := statement.Validate(); err != nil {
		return Build{}, fmt.Errorf("not a valid in-toto statement: %w", err)
	}
	if statement.GetPredicateType() != predicateType {
		return Build{}, fmt.Errorf("%w of statement: predicate %q", errAnotherKind, statement.GetPredicateType())
	}
	fields, err := statement.GetPredicate().MarshalJSON()
	if err != nil {
		return Build{}, fmt.Errorf("not a SLSA provenance: %w", err)
	}
	if err := reader.Unmarshal(fields, predicate); err != nil {
		return Build{}, fmt.Errorf("not a SLSA provenance: %w", err)
	}
	if err := predicate.Validate(); err != nil {
		return Build{}, fmt.Errorf("not a valid SLSA provenance: %w", err)
	}
	if predicate.GetBuildDefinition().GetBuildType() != buildType {
		return Build{}, fmt.Errorf("%w of build: %q", errAnotherKind, predicate.GetBuildDefinition().GetBuildType())
	}
	build := fromPredicate(statement, predicate)
	return build, build.checkNames()
}

// checkNames checks what a statement calls things, for all who use these names: it may
// be anybody's.
func (b Build) checkNames() error {
	for name := range b.Subjects {
		if err := checksum.CheckName(name); err != nil {
			return fmt.Errorf("the subject %q: %w", name, err)
		}
	}
	for _, image := range b.Images {
		if !artifact.ValidName(image.Name) {
			return fmt.Errorf("the name %q of an image: want letters, digits and . _ + -", image.Name)
		}
		if image.Asset != "" && checksum.CheckName(image.Asset) != nil {
			return fmt.Errorf("the asset %q of the image %s: want a plain file name", image.Asset, image.Name)
		}
		if strings.HasPrefix(image.Installable, "-") || strings.ContainsFunc(image.Installable, unicode.IsControl) {
			return fmt.Errorf("the installable %q of the image %s: want a flake and an attribute", image.Installable, image.Name)
		}
	}
	return nil
}

func fromPredicate(statement *intoto.Statement, predicate *slsa.Provenance) Build {
	definition, details := predicate.GetBuildDefinition(), predicate.GetRunDetails()
	parameters := definition.GetExternalParameters().AsMap()
	b := Build{
		Tag:        text(parameters, "release_tag"),
		Subjects:   checksum.Sums{},
		Repository: text(parameters, "repository"),
		Ref:        text(parameters, "ref"),
		Workflow:   text(parameters, "workflow"),
		Versions:   details.GetBuilder().GetVersion(),
		Run: Run{
			URL:      details.GetMetadata().GetInvocationId(),
			Started:  timeOf(details.GetMetadata().GetStartedOn()),
			Finished: timeOf(details.GetMetadata().GetFinishedOn()),
		},
	}
	if seconds, err := strconv.ParseInt(text(parameters, "source_date_epoch"), 10, 64); err == nil {
		b.ModTime = time.Unix(seconds, 0).UTC()
	}
	if id := details.GetBuilder().GetId(); id != builderByHand {
		b.Builder = id
	}
	for _, subject := range statement.GetSubject() {
		b.Subjects[subject.GetName()] = strings.ToLower(subject.GetDigest()["sha256"])
	}
	if inputs, ok := parameters["inputs"].(map[string]any); ok {
		b.Inputs = map[string]string{}
		for name := range inputs {
			b.Inputs[name] = text(inputs, name)
		}
	}
	b.readDependencies(definition.GetResolvedDependencies())
	b.readImages(parameters["images"], details.GetByproducts())
	return b
}

func (b *Build) readDependencies(list []*intoto.ResourceDescriptor) {
	for _, resource := range list {
		digest := resource.GetDigest()
		revision := digest["gitCommit"] + digest["revision"] // never both
		input, isInput := strings.CutPrefix(resource.GetName(), inputPrefix)
		switch {
		case isInput:
			b.Flake.Inputs = append(b.Flake.Inputs, Input{
				Name: input, URL: resource.GetUri(), Revision: revision, NARHash: digest[narHashKey],
			})
		case resource.GetName() == sourceName:
			b.Commit = revision
		case resource.GetName() == flakeName:
			b.Flake.URL, b.Flake.Revision, b.Flake.NARHash = resource.GetUri(), revision, digest[narHashKey]
		}
	}
}

func (b *Build) readImages(parameter any, byproducts []*intoto.ResourceDescriptor) {
	list, _ := parameter.([]any)
	for _, item := range list {
		fields, _ := item.(map[string]any)
		image := Image{Name: text(fields, "name"), Installable: text(fields, "installable")}
		for _, resource := range byproducts {
			if resource.GetName() == image.Name {
				annotations := resource.GetAnnotations().AsMap()
				image.Asset = text(annotations, "asset")
				image.Derivation = text(annotations, "derivation")
				image.Output = text(annotations, "output")
				image.NARHash = resource.GetDigest()[narHashKey]
			}
		}
		b.Images = append(b.Images, image)
	}
}

func text(fields map[string]any, name string) string {
	value, _ := fields[name].(string)
	return value
}

func timeOf(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}
