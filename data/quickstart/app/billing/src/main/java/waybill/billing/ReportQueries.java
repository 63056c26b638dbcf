package waybill.billing;

import java.util.*;
import org.springframework.jdbc.core.JdbcTemplate;

public class ReportQueries {
    private final JdbcTemplate jdbc;

    ReportQueries(JdbcTemplate jdbc) { this.jdbc = jdbc; }

    List<Map<String, Object>> revenue(String country) {
        return jdbc.queryForList("SELECT month, sum(total) FROM invoices WHERE country = '" + country + "' GROUP BY month");
    }

    List<Map<String, Object>> late(int days, String sort) {
        return jdbc.queryForList("SELECT * FROM invoices WHERE age > " + days + " ORDER BY " + sort);
    }
}
