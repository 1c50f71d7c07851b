package keyfold_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/keyfold/keyfold/cache"
	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/keyvault/hsmsim"
)

// The program of the README.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "keyfold")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	hsm, err := hsmsim.Open(dir+"/hsm", hsmsim.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer hsm.Close()
	if _, err := hsm.CreateKey(ctx, "kek", hsmsim.AES256); err != nil {
		log.Fatal(err)
	}
	kek, err := hsm.KEK(hsmsim.Ref{Name: "kek"})
	if err != nil {
		log.Fatal(err)
	}

	sealer, err := envelope.NewSealer(kek, envelope.SealerOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer sealer.Close()
	sealed, err := sealer.Seal(ctx, []byte("attack at dawn"), []byte("orders/1"))
	if err != nil {
		log.Fatal(err)
	}

	keys, err := cache.New(kek, cache.Options{}) // one remote call for each DEK, not for each message
	if err != nil {
		log.Fatal(err)
	}
	opened, err := envelope.NewOpenerFrom(keys).Open(ctx, sealed, []byte("orders/1"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", opened)
	// Output: attack at dawn
}
