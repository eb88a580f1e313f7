// Package trust decides what a release proves: it signs a release's small files
// and checks such signatures, records where the files came from, and
// decides what a publisher may sign.
//
// # Signatures
//
// Signatures are made with an SSH key, in the format of `ssh-keygen -Y sign`
// (PROTOCOL.sshsig of OpenSSH), so that whoever has OpenSSH can make and check
// them without this project.
//
// # How a signature is bound to its tag
//
// Whoever can write to a forge, or stands between it and a boot server, could
// serve an old release, truly signed, under a new tag's name. The list of
// checksums alone does not tell: its asset names usually end in the tag, but a
// name is a habit and not a promise (files attached by hand are called as their
// maker likes), and a person has to look at it. A comment in the list would have
// to be looked at as well, and `sha256sum -c --strict` refuses it.
//
// Every SSH signature has a namespace, which the checker must state and which is
// part of what is signed. So the tag is in the namespace: the one for the tag
// boot-v2026.02.28 is
//
//	runner-images/boot-v2026.02.28@every.channel
//
// and a signature for any other tag fails to verify, in this package as in
//
//	ssh-keygen -Y verify -f allowed_signers -I release@every.channel \
//	  -n runner-images/boot-v2026.02.28@every.channel \
//	  -s SHA256SUMS.txt.sig < SHA256SUMS.txt
//
// A line of allowed_signers can limit a key to this use with
// namespaces="runner-images/*@every.channel". The namespace does not name the
// repository, so that a mirror can serve what its origin signed: repositories
// whose releases must not stand in for each other need keys of their own.
//
// What a signature cannot tell is that a newer release exists. That is for those
// who remember what they had before: see Snapshot.
//
// # Order
//
// The asset snapshot.intoto.jsonl has for each file of a release a serial, which is
// greater the later its bytes were first published under the tag, and the time of
// the publication. It orders all that a key signs, so that a boot server that
// remembers the greatest serial it has seen takes nothing older. Its bytes are in
// SHA256SUMS.txt. It is signed by itself too, in an envelope as that of provenance,
// for the publisher: a run that died may leave a signed SHA256SUMS.txt without its
// line, and without it the next run would not know the serials of what it keeps.
//
// # Provenance
//
// The asset provenance.intoto.jsonl records where a release's files came from:
// one statement a run, in the form of in-toto and SLSA.
//
// A line of that file is a DSSE envelope (https://github.com/secure-systems-lab/dsse)
// around an in-toto Statement v1 (https://in-toto.io/Statement/v1) with a SLSA
// provenance v1 predicate (https://slsa.dev/spec/v1.0/provenance). A run that
// attaches further images to a release adds a line.
//
// The first signature in an envelope is an SSH signature, armored as `ssh-keygen -Y
// sign` writes it, over the envelope's pre-authentication encoding, with the
// tag in its namespace; keyid is the key's fingerprint. It alone counts in this
// project: it is bound to the tag, and an allowed_signers file can limit it. Beside
// it an ed25519 key makes its bare signature of the same bytes, without a keyid, for
// tools that know DSSE and not SSH, such as cosign. That is bound to no tag but by
// the statement that it signs. An envelope without signatures comes from a run
// without a signing key.
//
// SHA256SUMS.txt lists provenance.intoto.jsonl too, so whoever has checked the
// signature of the sums has checked this file's bytes, lines of other tools
// included.
package trust
