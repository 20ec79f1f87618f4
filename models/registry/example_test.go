package registry_test

import (
	"context"
	"fmt"
	"time"

	"github.com/millrace-ml/millrace/models/registry"
)

func Example() {
	ctx := context.Background()
	r, err := registry.Open(ctx, "mem://", time.Now)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer r.Close()
	_, err = r.Get(ctx, "fraud@champion")
	fmt.Println(err)
	// After version, err := r.Publish(ctx, "fraud", b), the new version is promoted only if the
	// champion is still the one it was compared with:
	//
	//	r.SetAlias(ctx, "fraud", registry.Champion, version, "gains 0.01", before)

	// Output:
	// resolving fraud@champion: no model fraud in the registry mem:// (it is empty): run retrain first: not in the registry
}
