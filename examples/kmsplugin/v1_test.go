package main_test

//lint:file-ignore SA1019 KMS v1 is deprecated; what it wrote has to be served all the same.

import (
	"bytes"

	"k8s.io/kms/apis/v1beta1"
)

// checkV1 speaks KMS v1 on the connection that speaks v2.
func checkV1(c *client) {
	c.t.Helper()
	v1 := v1beta1.NewKeyManagementServiceClient(c.conn)
	version, err := v1.Version(c.context(), &v1beta1.VersionRequest{Version: "v1beta1"})
	if err != nil || version.Version != "v1beta1" {
		c.t.Fatalf("v1 Version: %v, %v", version, err)
	}
	old, err := v1.Encrypt(c.context(), &v1beta1.EncryptRequest{Version: "v1beta1", Plain: []byte("at noon")})
	if err != nil {
		c.t.Fatal(err)
	}
	if bytes.Contains(old.Cipher, []byte("at noon")) {
		c.t.Fatal("the v1 ciphertext contains the plaintext")
	}
	back, err := v1.Decrypt(c.context(), &v1beta1.DecryptRequest{Version: "v1beta1", Cipher: old.Cipher})
	if err != nil || !bytes.Equal(back.Plain, []byte("at noon")) {
		c.t.Fatalf("v1 Decrypt: %q, %v", back.GetPlain(), err)
	}
}
