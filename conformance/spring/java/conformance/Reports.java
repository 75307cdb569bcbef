package conformance;

import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.RestController;

/** A resource server as the guide has it: all it knows of security is one issuer-uri. */
@SpringBootApplication
@RestController
public class Reports {
	public static void main(String[] args) {
		SpringApplication.run(Reports.class, args);
	}

	@GetMapping("/")
	String reports() {
		return "reports";
	}
}
