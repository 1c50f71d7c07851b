package stored

// HeaderAnnotation is the annotation under which Keyfold's KMS v2 service keeps the
// envelope header of a ciphertext.
const HeaderAnnotation = "header.kms.keyfold.dev"
